package xds

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	brotliv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/compression/brotli/compressor/v3"
	gzipv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/compression/gzip/compressor/v3"
	zstdv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/compression/zstd/compressor/v3"
	body_size_limitfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/body_size_limit/v3"
	compressorfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/compressor/v3"
	filter_chainfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/filter_chain/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// bodies puts a chain of the rule's own into the place that the listener's chain has for it: these filters have no
// configuration of a route.
func (t *translator) bodies(r *mesh.Rule, filters map[string]*anypb.Any) {
	var chain []*corev3.TypedExtensionConfig
	if limit := r.MaxRequestBytes; limit != nil && *limit > 0 {
		chain = append(chain, t.extension("weir.max_request_bytes", &body_size_limitfilterv3.BodySizeLimit{
			MaxRequestBytes: wrapperspb.UInt64(uint64(*limit)),
		}))
	}
	if c := r.Compression; c != nil {
		chain = append(chain, t.compressors(c)...)
	}
	if chain != nil {
		filters[bodyFilters] = t.any(&filter_chainfilterv3.FilterChainConfigPerRoute{
			FilterChain: &filter_chainfilterv3.FilterChain{Filters: chain},
		})
	}
}

func (t *translator) extension(name string, config proto.Message) *corev3.TypedExtensionConfig {
	return &corev3.TypedExtensionConfig{Name: name, TypedConfig: t.any(config)}
}

var compressorLibraries = map[string]proto.Message{"gzip": &gzipv3.Gzip{}, "br": &brotliv3.Brotli{}, "zstd": &zstdv3.Zstd{}}

// compressors gives a filter for each algorithm. Of those that a caller likes best, Envoy takes the one to be chosen
// first, or else the one that the caller has named first; and where any will do, the first of the chain.
func (t *translator) compressors(c *policy.Compression) []*corev3.TypedExtensionConfig {
	var types []*matcherv3.StringMatcher
	for _, name := range c.ContentTypes {
		types = append(types, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: name}, IgnoreCase: true})
	}
	var chain []*corev3.TypedExtensionConfig
	for i, name := range c.Algorithms {
		chain = append(chain, t.extension("weir.compressor."+name, &compressorfilterv3.Compressor{
			CompressorLibrary: t.extension(name, compressorLibraries[name]),
			ChooseFirst:       i == 0,
			ResponseDirectionConfig: &compressorfilterv3.Compressor_ResponseDirectionConfig{
				CommonConfig: &compressorfilterv3.Compressor_CommonDirectionConfig{
					MinContentLength:   wrapperspb.UInt32(uint32(*c.MinBytes)),
					ContentTypeMatcher: types,
				},
				// What is compressed is the same to readers, but not byte by byte; a part of it is not to be put together.
				WeakenEtagOnCompress:        true,
				UncompressibleResponseCodes: []uint32{206},
			},
		}))
	}
	return chain
}

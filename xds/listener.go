package xds

import (
	"slices"
	"strings"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	otelv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/open_telemetry/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	resourcedetectorsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/tracers/opentelemetry/resource_detectors/v3"
	tracingv3 "github.com/envoyproxy/go-control-plane/envoy/type/tracing/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/machinenativeops/weir/policy"
)

const (
	connectionBuffer = 1 << 20 // bytes
	streamIdle       = 5 * time.Minute
	endlessIdle      = time.Hour // of a rule without a timeout: a stream on which nothing moved for so long is dead
)

// listener takes HTTP and routes it by its route configuration.
func (t *translator) listener(d door, whose string) *Resource {
	sources := append(slices.Clone(d.sources), t.model.Source)
	return t.named(ListenerType, d.name, whose, sources, func() []byte {
		return t.marshal(t.unnamedListener(d, t.any(t.connectionManager(d))))
	})
}

// unnamedListener is a listener but for its name.
func (t *translator) unnamedListener(d door, manager *anypb.Any) *listenerv3.Listener {
	return &listenerv3.Listener{
		Address:                       socketAddress(d.address, d.port),
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(connectionBuffer),
		TrafficDirection:              d.direction(),
		FilterChains:                  []*listenerv3.FilterChain{t.encrypted(d, &listenerv3.FilterChain{Filters: only(manager)})},
	}
}

// only has a filter chain do nothing but HTTP.
func only(manager *anypb.Any) []*listenerv3.Filter {
	return []*listenerv3.Filter{{
		Name:       "envoy.filters.network.http_connection_manager",
		ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: manager},
	}}
}

// direction makes spans a server's at the edge and a client's beside a workload.
func (d door) direction() corev3.TrafficDirection {
	if d.edge {
		return corev3.TrafficDirection_INBOUND
	}
	return corev3.TrafficDirection_OUTBOUND
}

func (t *translator) connectionManager(d door) *hcmv3.HttpConnectionManager {
	m := &hcmv3.HttpConnectionManager{
		StatPrefix: d.routes,
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
			ConfigSource: adsSource(), RouteConfigName: d.routes,
		}},
		HttpFilters: t.httpFilters(d),
		// WebSockets over HTTP/1.1. Offered over HTTP/2 (allow_connect), browsers would open them there, and Envoy would pass
		// them to a service of HTTP/1.1 without the key that it asks for: https://github.com/envoyproxy/envoy/issues/8547.
		UpgradeConfigs: []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
		Tracing:        t.tracing(d),
		AccessLog:      t.accessLog(d),
		// The address of the peer is who the client is at the edge; inside, the edge has said it.
		UseRemoteAddress:             wrapperspb.Bool(d.edge),
		NormalizePath:                wrapperspb.Bool(true),
		PathWithEscapedSlashesAction: hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT,
		// Routes may then remove or replace the upstream's own.
		ServerHeaderTransformation: hcmv3.HttpConnectionManager_PASS_THROUGH,
		RequestHeadersTimeout:      durationpb.New(10 * time.Second),
		StreamIdleTimeout:          durationpb.New(streamIdle),
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
			IdleTimeout: durationpb.New(time.Hour),
		},
	}
	if m.Tracing != nil {
		m.RequestIdExtension = t.requestID()
	}
	if d.edge {
		guard(m)
	}
	return m
}

// guard is what Envoy recommends where strangers come in: less memory for each, and no names that could be mistaken
// for others behind it.
func guard(m *hcmv3.HttpConnectionManager) {
	m.CommonHttpProtocolOptions.HeadersWithUnderscoresAction = corev3.HttpProtocolOptions_REJECT_REQUEST
	m.Http2ProtocolOptions = &corev3.Http2ProtocolOptions{
		MaxConcurrentStreams:        wrapperspb.UInt32(100),
		InitialStreamWindowSize:     wrapperspb.UInt32(1 << 16),
		InitialConnectionWindowSize: wrapperspb.UInt32(1 << 20),
	}
}

// operation is a span's name, by which Sampling documents pick operations: POST /pay. What is asked for after the path
// is not in it.
const operation = "%REQ(:METHOD)% %PATH(NQ)%"

// path is that of a log: as the client sent it, without what is asked for after it, which may be anybody's secret.
const path = "%PATH(NQ:ORIG_OR_PATH)%"

func (t *translator) tracing(d door) *hcmv3.HttpConnectionManager_Tracing {
	tr := t.model.Tracing
	if tr == nil {
		return nil
	}
	all, tags := &typev3.Percent{Value: 100}, append(customTags(tr.Tags), thresholdTag(*tr.Percent)...)
	if t.model.Thinned {
		tags = append(tags, routeTag())
	}
	tags = append(tags, markTags(t.model.Marks, tr.Tags)...)
	return &hcmv3.HttpConnectionManager_Tracing{
		ClientSampling:  all,
		RandomSampling:  &typev3.Percent{Value: *tr.Percent},
		OverallSampling: all,
		CustomTags:      tags,
		Operation:       operation,
		Provider: &tracev3.Tracing_Http{
			Name: "envoy.tracers.opentelemetry",
			ConfigType: &tracev3.Tracing_Http_TypedConfig{TypedConfig: t.any(&tracev3.OpenTelemetryConfig{
				GrpcService: envoyGRPC(collectorCluster), ServiceName: d.owner.Name,
				ResourceDetectors: t.namespace(d.owner),
			})},
		},
	}
}

// namespace says whose spans they are, together with the service's name: by both a collector finds the class.
func (t *translator) namespace(owner policy.Ref) []*corev3.TypedExtensionConfig {
	if owner.Namespace == "" {
		return nil
	}
	return []*corev3.TypedExtensionConfig{{
		Name: "envoy.tracers.opentelemetry.resource_detectors.static_config",
		TypedConfig: t.any(&resourcedetectorsv3.StaticConfigResourceDetectorConfig{
			Attributes: map[string]string{"service.namespace": owner.Namespace},
		}),
	}}
}

func customTags(tags []policy.Tag) []*tracingv3.CustomTag {
	var all []*tracingv3.CustomTag
	for _, tag := range tags {
		all = append(all, &tracingv3.CustomTag{Tag: tag.Name, Type: &tracingv3.CustomTag_RequestHeader{
			RequestHeader: &tracingv3.CustomTag_Header{Name: tag.Header},
		}})
	}
	return all
}

// logged are the attributes of every access log, where no tag has the name.
var logged = [][2]string{
	{"http.request.method", "%REQ(:METHOD)%"},
	{"url.path", path},
	{"server.address", "%REQ(:AUTHORITY)%"},
	{"http.response.status_code", "%RESPONSE_CODE%"},
	{"envoy.response_flags", "%RESPONSE_FLAGS%"},
	{"envoy.route_name", "%ROUTE_NAME%"},
	{"envoy.upstream_cluster", "%UPSTREAM_CLUSTER%"},
	{"envoy.duration_ms", "%DURATION%"},
	{"http.request.body.size", "%BYTES_RECEIVED%"},
	{"http.response.body.size", "%BYTES_SENT%"},
	{"request_id", "%REQ(X-REQUEST-ID)%"},
}

func (t *translator) accessLog(d door) []*accesslogv3.AccessLog {
	log := t.model.AccessLog
	if log == nil {
		return nil
	}
	tags := t.model.Tracing.Tags
	attributes := make([]*commonv1.KeyValue, 0, len(logged)+len(tags))
	for _, a := range logged {
		if !slices.ContainsFunc(tags, func(tag policy.Tag) bool { return tag.Name == a[0] }) {
			attributes = append(attributes, text(a[0], a[1]))
		}
	}
	for _, tag := range tags {
		attributes = append(attributes, text(tag.Name, "%REQ("+strings.ToUpper(tag.Header)+")%"))
	}
	resource := []*commonv1.KeyValue{text("service.name", d.owner.Name)}
	if d.owner.Namespace != "" {
		resource = append(resource, text("service.namespace", d.owner.Namespace))
	}
	return []*accesslogv3.AccessLog{{
		Name:   "envoy.access_loggers.open_telemetry",
		Filter: statusFilter(log.Only),
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: t.any(&otelv3.OpenTelemetryAccessLogConfig{
			GrpcService:        envoyGRPC(collectorCluster),
			LogName:            d.name,
			ResourceAttributes: &commonv1.KeyValueList{Values: resource},
			Body:               stringValue("%REQ(:METHOD)% " + path + " %RESPONSE_CODE%"),
			Attributes:         &commonv1.KeyValueList{Values: attributes},
		})},
	}}
}

func text(key, value string) *commonv1.KeyValue {
	return &commonv1.KeyValue{Key: key, Value: stringValue(value)}
}

func stringValue(s string) *commonv1.AnyValue {
	return &commonv1.AnyValue{Value: &commonv1.AnyValue_StringValue{StringValue: s}}
}

// statusFilter speaks Envoy's three comparisons: equal, at least and at most.
func statusFilter(only *policy.AccessLogOnly) *accesslogv3.AccessLogFilter {
	if only == nil {
		return nil
	}
	op, value := accesslogv3.ComparisonFilter_EQ, only.Status.Value
	switch only.Status.Op {
	case ">=":
		op = accesslogv3.ComparisonFilter_GE
	case ">":
		op, value = accesslogv3.ComparisonFilter_GE, value+1
	case "<=":
		op = accesslogv3.ComparisonFilter_LE
	case "<":
		op, value = accesslogv3.ComparisonFilter_LE, value-1
	}
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_StatusCodeFilter{
		StatusCodeFilter: &accesslogv3.StatusCodeFilter{Comparison: &accesslogv3.ComparisonFilter{
			Op: op, Value: &corev3.RuntimeUInt32{DefaultValue: uint32(value), RuntimeKey: "weir.access_log.status"},
		}},
	}}
}

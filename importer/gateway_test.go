package importer_test

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/machinenativeops/weir/explain"
	"github.com/machinenativeops/weir/mesh"
	"github.com/machinenativeops/weir/policy"
)

// TestGateways asks the gateways that come out: what they serve, and where, is what went in.
func TestGateways(t *testing.T) {
	models := make(map[string]*mesh.Model)
	for _, name := range []string{"gateway-api", "gateway-api-attachment", "istio", "istio-hosts"} {
		archive, err := txtar.ParseFile("testdata/" + name + ".txtar")
		if err != nil {
			t.Fatal(err)
		}
		files := make(map[string][]byte)
		for _, f := range archive.Files {
			if !strings.HasPrefix(f.Name, "want/") {
				files[f.Name] = f.Data
			}
		}
		models[name] = mesh.Build(mustLoad(t, mustImport(t, input(files)).YAML()))
	}
	for _, c := range []struct {
		archive, gateway, url, header string
		want                          string // the outcome, and where to
	}{
		{"gateway-api", "infra/edge", "http://shop.example.com/cart", "", "redirected https://shop.example.com/cart"},
		{"gateway-api", "infra/edge", "https://shop.example.com/cart", "", "forwarded shop/old-cart"},
		{"gateway-api", "infra/edge", "https://shop.example.com/cart", "x-user-group: beta", "forwarded shop/cart-v1 shop/cart-v2"},
		{"gateway-api", "infra/edge", "https://shop.example.com/baskets/12?debug=true", "", "forwarded shop/cart-v1 shop/cart-v2"},
		{"gateway-api", "infra/edge", "https://shop.example.com/baskets/12?debug=no", "", "forwarded shop/web"},
		{"gateway-api", "infra/edge", "https://blog.example.com/", "", "forwarded shop/blog"},
		{"gateway-api", "infra/edge", "https://shop.example.org/", "", "notFound"},
		{"gateway-api", "infra/edge", "https://web.shop/", "", "notFound"}, // the default name of a service is no host of the gateway's
		{"gateway-api-attachment", "infra/edge", "http://shop.example.com:8080/stock/1", "", "forwarded stock/stock"},
		{"gateway-api-attachment", "infra/edge", "http://orphan.example.com:8080/", "", "notFound"},
		{"gateway-api-attachment", "infra/edge", "http://pay.shop:8080/", "", "notFound"},
		{"istio", "default/shop-gateway", "http://shop.example.com/", "", "redirected https://shop.example.com/"},
		{"istio", "default/shop-gateway", "https://shop.example.com/static/x", "", "forwarded default/web"},
		{"istio", "default/shop-gateway", "https://shop.example.com/other", "", "notFound"},
		{"istio", "default/shop-gateway", "https://cart/", "", "notFound"},
		{"istio", "default/everywhere", "http://stock.example.com:8080/inner", "", "forwarded default/stock/v1 default/stock/v2"},
		{"istio", "default/everywhere", "http://stock.default:8080/", "", "forwarded default/stock/v1 default/stock/v2"},
		{"istio-hosts", "infra/a", "http://www.example.com/api", "", "forwarded shop/api"},
		{"istio-hosts", "infra/a", "http://www.example.com/", "", "forwarded shop/web"},
		{"istio-hosts", "infra/a", "http://other.example.org/api", "", "notFound"},
		{"istio-hosts", "infra/a", "http://own.example.com/x", "", "redirected http://www.example.com/x"},
	} {
		var headers []string
		if c.header != "" {
			headers = append(headers, c.header)
		}
		r, err := explain.ParseRequest("GET "+c.url, headers)
		if err != nil {
			t.Fatal(err)
		}
		x, err := explain.Explain(models[c.archive], &mesh.Proxy{Role: mesh.RoleGateway, Ref: policy.ParseRef(c.gateway, "")}, r, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		got := x.Outcome.Kind
		if x.Outcome.Location != "" {
			got += " " + x.Outcome.Location
		}
		if x.Taken != nil {
			for _, to := range x.Taken.To {
				got += " " + to.Subset
			}
		}
		if got != c.want {
			t.Errorf("%s: GET %s (%s) at %s: %s (%s), want %s", c.archive, c.url, c.header, c.gateway, got, x.Outcome.Reason, c.want)
		}
	}
}

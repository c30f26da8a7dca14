package e2e_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/net/http2"

	"github.com/machinenativeops/weir/internal/envoytest"
)

// echoWebSocket answers each message with v1 before it.
func echoWebSocket(rw http.ResponseWriter, r *http.Request) bool {
	if r.Header.Get("Upgrade") == "" {
		return false
	}
	c, err := websocket.Accept(rw, r, nil)
	if err != nil {
		return true
	}
	defer func() { _ = c.CloseNow() }()
	for {
		kind, message, err := c.Read(r.Context())
		if err != nil || c.Write(r.Context(), kind, append([]byte("v1 "), message...)) != nil {
			return true
		}
	}
}

func TestWebSockets(t *testing.T) {
	v1, v2 := envoytest.Upstream(t, "v1"), envoytest.Upstream(t, "v2")
	v1.Handle = echoWebSocket
	documents := func(w1, w2 int) string {
		return strings.Replace(shop(v1.Address, v2.Address, w1, w2), "  hosts:", "  timeout: 200ms\n  hosts:", 1)
	}
	w := newWorld(t, documents(1, 0))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, resp, err := websocket.Dial(ctx, w.gateway+"/chat", &websocket.DialOptions{Host: checkout.host})
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body != nil {
		defer resp.Body.Close()
	}
	defer func() { _ = c.CloseNow() }()
	talk := func(message string) {
		t.Helper()
		if err := c.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.Read(ctx); err != nil || string(got) != "v1 "+message {
			t.Fatalf("%q is answered by %q, %v", message, got, err)
		}
	}
	talk("hello")
	time.Sleep(500 * time.Millisecond) // more than the timeout
	talk("still here")
	w.write("mesh.yaml", documents(0, 1))
	w.eventually("the edit takes effect", func() error {
		if got := w.mustDo(checkout); got.body != "v2" {
			return fmt.Errorf("answered by %q", got.body)
		}
		return nil
	})
	talk("after the edit")
	if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
	if n := w.metric("weir_xds_nacks_total"); n > 0 {
		t.Errorf("Envoy refused %v resources", n)
	}
}

// TestHTTP2OffersNoWebSockets: a browser that isn't offered RFC 8441 opens its WebSockets over HTTP/1.1.
func TestHTTP2OffersNoWebSockets(t *testing.T) {
	up := envoytest.Upstream(t, "up")
	w := newWorld(t, service("chat", up.Address, ""))
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(t.Context(), "tcp", strings.TrimPrefix(w.gateway, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, conn)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	frame, err := framer.ReadFrame()
	if err != nil {
		t.Fatal(err)
	}
	settings, ok := frame.(*http2.SettingsFrame)
	if !ok {
		t.Fatalf("Envoy begins with %v", frame)
	}
	if v, _ := settings.Value(http2.SettingEnableConnectProtocol); v != 0 {
		t.Errorf("RFC 8441 is offered: %v", settings)
	}
}

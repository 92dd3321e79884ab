package e2e

import (
	"fmt"
	"net"
	"path"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// exchange is one RPC that passed the proxy.
type exchange struct {
	rpc            string
	request, reply []byte
	code           string
	at             time.Time
}

// proxy stands between Cluster Autoscaler and the provider, understands nothing, and keeps what passes.
type proxy struct {
	address   string
	mutex     sync.Mutex
	exchanges []exchange
}

// raw hands messages through as the bytes that they are.
type raw struct{}

func (raw) Marshal(message any) ([]byte, error) { return *message.(*[]byte), nil }

func (raw) Unmarshal(data []byte, message any) error {
	*message.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func (raw) Name() string { return "raw" }

func startProxy(t testing.TB, provider string) *proxy {
	t.Helper()
	upstream, err := grpc.NewClient("passthrough:///"+provider, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(quickly))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{address: listener.Addr().String()}
	server := grpc.NewServer(grpc.ForceServerCodec(raw{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		return p.pass(upstream, stream)
	}))
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		_ = upstream.Close()
	})
	return p
}

// quickly finds a provider that came back without the patience that production has.
var quickly = grpc.ConnectParams{MinConnectTimeout: time.Second}

func (p *proxy) pass(upstream *grpc.ClientConn, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	var request, reply []byte
	if err := stream.RecvMsg(&request); err != nil {
		return err
	}
	at := time.Now()
	err := upstream.Invoke(stream.Context(), method, &request, &reply, grpc.ForceCodec(raw{}))
	p.mutex.Lock()
	p.exchanges = append(p.exchanges, exchange{path.Base(method), request, reply, status.Code(err).String(), at})
	p.mutex.Unlock()
	if err != nil {
		return err
	}
	return stream.SendMsg(&reply)
}

// seen is what passed so far.
func (p *proxy) seen() []exchange {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return append([]exchange(nil), p.exchanges...)
}

// loops cuts what passed into runs of the loop: each begins with Refresh. What came before the first is not one.
func loops(exchanges []exchange) [][]exchange {
	var cut [][]exchange
	for _, e := range exchanges {
		if e.rpc == "Refresh" {
			cut = append(cut, nil)
		}
		if len(cut) > 0 {
			cut[len(cut)-1] = append(cut[len(cut)-1], e)
		}
	}
	return cut
}

// count is how often each RPC is among them.
func count(exchanges []exchange) map[string]int {
	counts := map[string]int{}
	for _, e := range exchanges {
		counts[e.rpc]++
	}
	return counts
}

// nextLoops waits for whole runs of the loop from now on.
func (p *proxy) nextLoops(t testing.TB, wanted int) [][]exchange {
	t.Helper()
	before := len(loops(p.seen()))
	await(t, fmt.Sprintf("%d runs of the loop", wanted), time.Minute, func() error {
		if now := len(loops(p.seen())); now <= before+wanted {
			return fmt.Errorf("%d so far", now-before)
		}
		return nil
	})
	return loops(p.seen())[before : before+wanted]
}

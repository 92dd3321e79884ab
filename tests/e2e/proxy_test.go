package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"path"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
)

// exchange is one RPC that passed the proxy.
type exchange struct {
	rpc            string
	request, reply []byte
	code           string
	at, ended      time.Time
}

// proxy replaces the Service between Cluster Autoscaler and the provider: each connection goes to the replica
// that was ready at its start. It records the RPCs.
type proxy struct {
	address   string
	ready     func() (string, error)
	mutex     sync.Mutex
	exchanges []exchange
	refused   int
}

// startProxy calls `ready` for each connection to select the replica.
func startProxy(t testing.TB, ready func() (string, error)) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{address: listener.Addr().String(), ready: ready}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go p.connect(client)
		}
	}()
	return p
}

// connect closes the connection if no replica is ready, or when either side closes it.
func (p *proxy) connect(client net.Conn) {
	defer client.Close()
	var backend net.Conn
	address, err := p.ready()
	if err == nil {
		backend, err = net.DialTimeout("tcp", address, time.Second)
	}
	if err != nil {
		p.mutex.Lock()
		defer p.mutex.Unlock()
		p.refused++
		return
	}
	defer backend.Close()
	c := &conversation{proxy: p, streams: map[uint32]*exchange{}}
	defer c.cut()
	ended := make(chan struct{}, 2)
	go func() {
		c.requests(client, backend)
		ended <- struct{}{}
	}()
	go func() {
		c.replies(backend, client)
		ended <- struct{}{}
	}()
	<-ended
}

// conversation has the RPCs of a connection.
type conversation struct {
	proxy   *proxy
	mutex   sync.Mutex
	streams map[uint32]*exchange
}

func (c *conversation) requests(from io.Reader, to io.Writer) {
	source := bufio.NewReader(from)
	if _, err := io.CopyN(to, source, int64(len(http2.ClientPreface))); err != nil {
		return
	}
	relay(source, to, func(frame http2.Frame) {
		id := frame.Header().StreamID
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			c.mutex.Lock()
			c.streams[id] = &exchange{rpc: path.Base(frame.PseudoValue("path")), at: time.Now()}
			c.mutex.Unlock()
		case *http2.DataFrame:
			c.with(id, func(e *exchange) { e.request = append(e.request, frame.Data()...) })
		case *http2.RSTStreamFrame:
			c.end(id, codes.DeadlineExceeded)
		}
	})
}

func (c *conversation) replies(from io.Reader, to io.Writer) {
	relay(bufio.NewReader(from), to, func(frame http2.Frame) {
		id := frame.Header().StreamID
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			for _, field := range frame.RegularFields() {
				if code, err := strconv.Atoi(field.Value); field.Name == "grpc-status" && err == nil {
					c.end(id, codes.Code(code))
				}
			}
		case *http2.DataFrame:
			c.with(id, func(e *exchange) { e.reply = append(e.reply, frame.Data()...) })
		case *http2.RSTStreamFrame:
			c.end(id, codes.Internal)
		}
	})
}

// relay records each frame and forwards it unchanged.
func relay(from io.Reader, to io.Writer, look func(http2.Frame)) {
	var passing bytes.Buffer
	framer := http2.NewFramer(io.Discard, io.TeeReader(from, &passing))
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return
		}
		look(frame)
		if _, err := to.Write(passing.Bytes()); err != nil {
			return
		}
		passing.Reset()
	}
}

func (c *conversation) with(id uint32, change func(*exchange)) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if e := c.streams[id]; e != nil {
		change(e)
	}
}

// end records the end of an RPC.
func (c *conversation) end(id uint32, code codes.Code) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	e := c.streams[id]
	if e == nil {
		return
	}
	delete(c.streams, id)
	// A message follows a byte for compression and four bytes for its length.
	const prefix = 5
	e.request, e.reply = e.request[min(prefix, len(e.request)):], e.reply[min(prefix, len(e.reply)):]
	e.code, e.ended = code.String(), time.Now()
	c.proxy.mutex.Lock()
	defer c.proxy.mutex.Unlock()
	c.proxy.exchanges = append(c.proxy.exchanges, *e)
}

// cut records the end of the connection: pending RPCs have failed.
func (c *conversation) cut() {
	c.mutex.Lock()
	var open []uint32
	for id := range c.streams {
		open = append(open, id)
	}
	c.mutex.Unlock()
	for _, id := range open {
		c.end(id, codes.Unavailable)
	}
}

// allExchanges returns the RPCs so far.
func (p *proxy) allExchanges() []exchange {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return append([]exchange(nil), p.exchanges...)
}

// loops splits RPCs into runs of the loop, each of which begins with Refresh. RPCs before the first Refresh
// are dropped.
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

// count returns the number of RPCs by name.
func count(exchanges []exchange) map[string]int {
	counts := map[string]int{}
	for _, e := range exchanges {
		counts[e.rpc]++
	}
	return counts
}

// awaitLoops waits for complete runs of the loop from now on.
func (p *proxy) awaitLoops(t testing.TB, wanted int) [][]exchange {
	t.Helper()
	before := len(loops(p.allExchanges()))
	await(t, fmt.Sprintf("%d runs of the loop", wanted), time.Minute, func() error {
		if now := len(loops(p.allExchanges())); now <= before+wanted {
			return fmt.Errorf("%d so far", now-before)
		}
		return nil
	})
	return loops(p.allExchanges())[before : before+wanted]
}

// recovered returns the end of the first complete run of the loop after `since` without a failed RPC.
func (p *proxy) recovered(since time.Time) (time.Time, error) {
	runs := loops(p.allExchanges())
	for n := 0; n+1 < len(runs); n++ {
		if runs[n][0].at.After(since) && checkLoop(runs[n]) == nil {
			return runs[n][len(runs[n])-1].ended, nil
		}
	}
	return time.Time{}, errors.New("no run of the loop without an error")
}

// checkLoop returns an error iff an RPC failed, which makes Cluster Autoscaler abort the loop.
func checkLoop(exchanges []exchange) error {
	for _, e := range exchanges {
		if e.code != "OK" {
			return fmt.Errorf("%s returned %s", e.rpc, e.code)
		}
	}
	return nil
}

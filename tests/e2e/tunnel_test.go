package e2e

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// tunnel forwards encrypted connections to the address that `ready` returns.
type tunnel struct {
	address string
	mutex   sync.Mutex
	cut     bool
	open    map[net.Conn]bool
}

func startTunnel(t testing.TB, ready func() (string, error)) *tunnel {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &tunnel{address: listener.Addr().String(), open: map[net.Conn]bool{}}
	t.Cleanup(func() {
		_ = listener.Close()
		r.stop()
	})
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go r.connect(client, ready)
		}
	}()
	return r
}

func (r *tunnel) connect(client net.Conn, ready func() (string, error)) {
	defer client.Close()
	address, err := ready()
	if err != nil {
		return
	}
	server, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return
	}
	defer server.Close()
	r.mutex.Lock()
	if r.cut {
		r.mutex.Unlock()
		return
	}
	r.open[client], r.open[server] = true, true
	r.mutex.Unlock()
	ended := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		go func() {
			_, _ = io.Copy(way[0], way[1])
			ended <- struct{}{}
		}()
	}
	<-ended
	r.mutex.Lock()
	defer r.mutex.Unlock()
	delete(r.open, client)
	delete(r.open, server)
}

// stop closes all connections and refuses new ones.
func (r *tunnel) stop() {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.cut = true
	for connection := range r.open {
		_ = connection.Close()
	}
}

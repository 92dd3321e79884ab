package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// process is a program that runs until the test ends. Its output goes to a file.
type process struct {
	name    string
	log     string
	command *exec.Cmd
	done    chan struct{}
}

// start runs a program until the test ends; output is appended to <dir>/<name>.log.
func start(t testing.TB, dir, name, program string, arguments ...string) *process {
	t.Helper()
	p, err := launch(dir, name, program, arguments...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("--- output of %s:\n%s", name, tail(p.log, 1500))
		}
		p.stop()
	})
	return p
}

func launch(dir, name, program string, arguments ...string) (*process, error) {
	log := filepath.Join(dir, name+".log")
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	command := exec.Command(program, arguments...)
	command.Stdout, command.Stderr = file, file
	// If the test is killed, the process is killed, too.
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	p := &process{name: name, log: log, command: command, done: make(chan struct{})}
	go func() {
		_ = command.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) signal(signal os.Signal) {
	_ = p.command.Process.Signal(signal)
}

// kill sends SIGKILL.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

// stop sends SIGTERM and waits; after ten seconds it sends SIGKILL.
func (p *process) stop() { p.end(10 * time.Second) }

// end sends SIGTERM and waits. It returns false if the process did not end in time; then the process is
// killed.
func (p *process) end(grace time.Duration) bool {
	p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return true
	case <-time.After(grace):
		p.kill()
		return false
	}
}

// ended returns an error iff the process has ended.
func (p *process) ended() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s has ended: %s", p.name, tail(p.log, 1500))
	default:
		return nil
	}
}

func tail(path string, size int64) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if int64(len(content)) > size {
		content = content[int64(len(content))-size:]
		if line := bytes.IndexByte(content, '\n'); line >= 0 {
			content = content[line+1:]
		}
	}
	return string(content)
}

// ports counts the ports that port tried. They are below the ephemeral ports of outgoing connections.
var ports atomic.Int32

// port returns a free port that no other caller gets.
func port(t testing.TB) int {
	t.Helper()
	const first, span = 12000, 20000
	for range span {
		port := first + (os.Getpid()*97+int(ports.Add(1)))%span
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = listener.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// await repeats a check until it succeeds. After the deadline the test fails with its last error.
func await(t testing.TB, what string, deadline time.Duration, condition func() error) {
	t.Helper()
	began := time.Now()
	for {
		err := condition()
		if err == nil {
			return
		}
		var final fatal
		if errors.As(err, &final) || time.Since(began) > deadline {
			t.Fatalf("%s: not within %s: %v", what, time.Since(began).Round(time.Second), err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// hold fails the test if the check fails within the time.
func hold(t testing.TB, what string, span time.Duration, condition func() error) {
	t.Helper()
	for began := time.Now(); time.Since(began) < span; time.Sleep(200 * time.Millisecond) {
		if err := condition(); err != nil {
			t.Fatalf("%s: failed after %s: %v", what, time.Since(began).Round(time.Second), err)
		}
	}
}

// fatal is an error that ends await.
type fatal struct{ error }

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// witness records bootstrap tokens, Nodes, scripts and passwords of VMs from their creation, because the provider deletes
// most of them.
type witness struct {
	mutex sync.Mutex
	// tokens by id.
	tokens map[string]*seenToken
	// first has the first version of each Node, and gone the time of its deletion, by its name.
	first map[string]core.Node
	gone  map[string]time.Time
	// scripts by name, without `.sh`.
	scripts map[string]*seenScript
	// passwords of VMs.
	passwords map[string]bool
}

type seenToken struct {
	id, text    string
	labels      map[string]string
	expirations []string
	seen, gone  time.Time
}

type seenScript struct {
	content    string
	seen, gone time.Time
}

// startWitness records until the test ends.
func startWitness(t *testing.T, cluster *controlPlane, vpsie *simulator) *witness {
	t.Helper()
	w := &witness{
		tokens: map[string]*seenToken{}, first: map[string]core.Node{}, gone: map[string]time.Time{},
		scripts: map[string]*seenScript{}, passwords: map[string]bool{},
	}
	config, err := clientcmd.BuildConfigFromFlags("", cluster.kubeconfigOf("admin"))
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(background)
	var running sync.WaitGroup
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	follow := func(what string, start func() (watch.Interface, error), record func(watch.Event)) {
		watched, err := start()
		if err != nil {
			t.Fatalf("watch of %s: %v", what, err)
		}
		running.Go(func() {
			for event := range watched.ResultChan() {
				w.mutex.Lock()
				record(event)
				w.mutex.Unlock()
			}
			if ctx.Err() == nil {
				t.Errorf("the watch of %s has ended", what)
			}
		})
	}
	nodes, err := client.CoreV1().Nodes().List(background, meta.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	follow("Nodes", func() (watch.Interface, error) {
		return client.CoreV1().Nodes().Watch(ctx, meta.ListOptions{ResourceVersion: nodes.ResourceVersion})
	}, w.recordNode)
	follow("Secrets", func() (watch.Interface, error) {
		return client.CoreV1().Secrets("kube-system").Watch(ctx, meta.ListOptions{ResourceVersion: nodes.ResourceVersion})
	}, w.recordToken)
	running.Go(func() {
		for ctx.Err() == nil {
			w.recordVPSie(vpsie)
			select {
			case <-ctx.Done():
			case <-time.After(250 * time.Millisecond):
			}
		}
	})
	return w
}

func (w *witness) recordNode(event watch.Event) {
	node, ok := event.Object.(*core.Node)
	if !ok {
		return
	}
	switch event.Type {
	case watch.Added:
		w.first[node.Name] = *node
	case watch.Deleted:
		w.gone[node.Name] = time.Now()
	}
}

func (w *witness) recordToken(event watch.Event) {
	secret, ok := event.Object.(*core.Secret)
	if !ok || secret.Type != core.SecretTypeBootstrapToken {
		return
	}
	id := string(secret.Data["token-id"])
	token := w.tokens[id]
	if token == nil {
		token = &seenToken{
			id: id, text: id + "." + string(secret.Data["token-secret"]), labels: maps.Clone(secret.Labels), seen: time.Now(),
		}
		w.tokens[id] = token
	}
	if event.Type == watch.Deleted {
		token.gone = time.Now()
		return
	}
	token.expirations = append(token.expirations, string(secret.Data["expiration"]))
}

// recordVPSie records scripts and passwords. A failed request is repeated by the next call.
func (w *witness) recordVPSie(vpsie *simulator) {
	var scripts struct {
		Data []struct {
			Name   string `json:"script_name"`
			Script string `json:"script"`
		}
	}
	var vms struct {
		Data []struct {
			Password string `json:"initial_password"`
		}
	}
	if vpsie.user("GET", "/scripts", nil, &scripts) != nil || vpsie.user("GET", "/vm", nil, &vms) != nil {
		return
	}
	w.mutex.Lock()
	defer w.mutex.Unlock()
	there := map[string]bool{}
	for _, listed := range scripts.Data {
		name := strings.TrimSuffix(listed.Name, ".sh")
		there[name] = true
		if w.scripts[name] == nil {
			w.scripts[name] = &seenScript{content: listed.Script, seen: time.Now()}
		}
	}
	for name, script := range w.scripts {
		if !there[name] && script.gone.IsZero() {
			script.gone = time.Now()
		}
	}
	for _, listed := range vms.Data {
		if listed.Password != "" {
			w.passwords[listed.Password] = true
		}
	}
}

// tokensOf returns the tokens for a VM.
func (w *witness) tokensOf(hostname string) []seenToken {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	var found []seenToken
	for _, token := range w.tokens {
		if token.labels["autoscaler.vpsie.com/hostname"] == hostname {
			found = append(found, *token)
		}
	}
	return found
}

// allTokens returns all tokens.
func (w *witness) allTokens() []seenToken {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	var found []seenToken
	for _, token := range w.tokens {
		found = append(found, *token)
	}
	return found
}

// allPasswords returns the passwords of all VMs.
func (w *witness) allPasswords() []string {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return slices.Collect(maps.Keys(w.passwords))
}

func (w *witness) allScripts() map[string]seenScript {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	found := map[string]seenScript{}
	for name, script := range w.scripts {
		found[name] = *script
	}
	return found
}

// firstVersion returns the first version of a Node.
func (w *witness) firstVersion(name string) (core.Node, bool) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	node, seen := w.first[name]
	return node, seen
}

// goneAt returns the time of a Node's deletion; zero if it exists.
func (w *witness) goneAt(name string) time.Time {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return w.gone[name]
}

// checkNoLeftovers returns an error iff a token or a script exists.
func (w *witness) checkNoLeftovers() error {
	var all error
	for _, token := range w.allTokens() {
		if token.gone.IsZero() {
			all = errors.Join(all, fmt.Errorf("token %s of %s exists", token.id, token.labels["autoscaler.vpsie.com/hostname"]))
		}
	}
	for name, script := range w.allScripts() {
		if script.gone.IsZero() {
			all = errors.Join(all, fmt.Errorf("script %s exists", name))
		}
	}
	return all
}

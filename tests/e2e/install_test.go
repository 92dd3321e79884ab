package e2e

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	chart   = "../../deployments/helm/vpsie-autoscaler"
	release = "vpsie-autoscaler"
)

// TestInstall installs the chart with helm on a real API server, and runs what its pods say: the provider, and Cluster
// Autoscaler with the chart's arguments, files and rights where there is a real one. The model of it is led to the
// provider by a tunnel that has the chart's certificate.
func TestInstall(t *testing.T) {
	installed(t, install)
}

// installed runs a test with each real Cluster Autoscaler, or with the newest model.
func installed(t *testing.T, run func(*testing.T, driver)) {
	for _, d := range drivers(t) {
		if !d.real() && d.minor != newest {
			continue
		}
		t.Run(strings.ReplaceAll(d.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			run(t, d)
		})
	}
}

func install(t *testing.T, d driver) {
	w := empty(t)
	dir := w.cluster.dir
	w.cluster.must(t, "POST", "/api/v1/namespaces", object{"metadata": object{
		"name": namespace, "labels": object{"pod-security.kubernetes.io/enforce": "restricted"},
	}})
	w.cluster.must(t, "POST", "/api/v1/namespaces/"+namespace+"/secrets", object{
		"metadata": object{"name": secret}, "stringData": object{"token": "simulated-token", "url": w.vpsie.url + "/apps/v2"},
	})
	var k *kubelet
	services := listen(t, func(client net.Conn) { k.forward(client) })
	flag := func(kubeconfig string) []string { return []string{"--kubeconfig=" + kubeconfig} }
	// Names of Services are resolved by a proxy; what is on this machine is reached directly.
	proxied := func(string) []string { return []string{"HTTPS_PROXY=http://" + services} }
	k = startKubelet(t, w.cluster, map[string]program{
		"vpsie-autoscaler":   {os.Getenv("E2E_VPSIE_AUTOSCALER"), none, none},
		"explain":            {os.Getenv("E2E_VPSIE_AUTOSCALER"), none, none},
		"cluster-autoscaler": {d.binary, flag, proxied},
	})
	values := []string{
		"controller.syncPeriod=1s", "vpsie.rateLimit=6000", "clusterAutoscaler.version=" + d.minor + ".0",
		fmt.Sprintf("clusterAutoscaler.enabled=%v", d.real()),
		// So that an event that repeats is told again at once, and not after five minutes.
		"clusterAutoscaler.extraArgs.record-duplicated-events=true",
	}
	for _, flag := range append(hurry, fmt.Sprintf("--address=127.0.0.1:%d", port(t)), "--node-delete-delay-after-taint=1s") {
		values = append(values, "clusterAutoscaler.extraArgs."+strings.TrimPrefix(flag, "--"))
	}
	group, err := json.Marshal([]object{{
		"name": "general", "minNodes": 0, "maxNodes": 6, "datacenterID": "ams1",
		"resourceIdentifier": "5a1c94be-6f3d-11ef-9b52-bc24115e1e5f", "offeringIDs": []string{small, large},
	}})
	if err != nil {
		t.Fatal(err)
	}
	h := helm{t: t, kubeconfig: w.cluster.kubeconfigOf("admin"), values: values, groups: string(group)}
	w.began = time.Now()
	w.deploy("web", 4, "800m", "500Mi")
	h.run("install", release, chart, "--wait", "--timeout=2m")
	w.note("helm install --wait %.0f s", time.Since(w.began).Seconds())
	var led *process
	if !d.real() {
		made, err := w.cluster.client.CoreV1().Secrets(namespace).Get(background, release+"-client-tls", meta.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		led = w.led(d, k, dir, made.Data)
	}
	runs := func(count int) func() error {
		return func() error {
			if led != nil {
				if err := led.ended(); err != nil {
					return fatal{err}
				}
			}
			return w.stands(count)
		}
	}
	await(t, "the first pod runs on a new node", 2*time.Minute, func() error {
		running, _, err := w.pods()
		if err == nil && running == 0 {
			err = errors.New("none runs")
		}
		return err
	})
	w.note("first pod on a new node %.0f s after the command", time.Since(w.began).Seconds())
	await(t, "all pods run", 2*time.Minute, runs(4))
	h.run("test", release, "--timeout=1m")
	if d.real() {
		w.repeats()
	}

	before := w.uuids()
	// Of Cluster Autoscaler, too: it takes its status away as it ends.
	h.values = append(h.values, "controller.logLevel=debug", "replicaCount=3", "clusterAutoscaler.extraArgs.v=5")
	h.run("upgrade", release, chart, "--wait", "--timeout=2m")
	await(t, "all is as it was after the upgrade", time.Minute, runs(4))
	h.run("rollback", release, "1", "--wait", "--timeout=2m")
	await(t, "all is as it was after the rollback", time.Minute, runs(4))
	if after := w.uuids(); after != before {
		t.Errorf("VMs before the upgrade: %s; after the rollback: %s", before, after)
	}

	w.scale("web", 8)
	await(t, "it grows", 2*time.Minute, runs(8))
	w.scale("web", 0)
	await(t, "it shrinks", 2*time.Minute, runs(0))
	w.cluster.withinRights(t, d)
	h.run("uninstall", release, "--wait", "--timeout=1m")
	groups, err := w.cluster.nodeGroups()
	if err != nil || len(groups) != 1 {
		t.Errorf("NodeGroups that an uninstall leaves: %v, %v", groups, err)
	}
	line := fmt.Sprintf("%-26s install; %s", d.name, strings.Join(w.notes, ", "))
	summary.Lock()
	defer summary.Unlock()
	summary.lines = append(summary.lines, line)
}

// repeats has Cluster Autoscaler say in each run of its loop that it can do nothing for a pod.
func (w *world) repeats() {
	w.t.Helper()
	w.deploy("giant", 1, "64", "500Mi")
	await(w.t, "an event of Cluster Autoscaler's repeats", time.Minute, func() error {
		events, err := w.cluster.client.CoreV1().Events("default").List(background, meta.ListOptions{})
		if err != nil {
			return err
		}
		for _, event := range events.Items {
			if event.Source.Component == "cluster-autoscaler" && event.Count > 1 {
				return nil
			}
		}
		return errors.New("none does")
	})
	w.scale("giant", 0)
}

// empty is a cluster that VPSie manages, with nothing installed.
func empty(t *testing.T) *world {
	t.Helper()
	dir := scratch(t)
	w := &world{t: t, cluster: startControlPlane(t, dir, "")}
	w.vpsie = startSimulator(t, dir, w.cluster.kubeconfigOf("admin"), simulated)
	await(t, "the nodes that are not ours are ready", 30*time.Second, func() error {
		nodes, err := w.nodes(ready)
		if err == nil && len(nodes) != 2 {
			err = fmt.Errorf("%d are", len(nodes))
		}
		return err
	})
	return w
}

func none(string) []string { return nil }

// helm runs the command.
type helm struct {
	t          *testing.T
	kubeconfig string
	values     []string
	groups     string
}

func (h helm) run(command string, arguments ...string) {
	h.t.Helper()
	arguments = append([]string{command, "--kubeconfig=" + h.kubeconfig, "--namespace=" + namespace}, arguments...)
	if command == "install" || command == "upgrade" {
		for _, value := range h.values {
			arguments = append(arguments, "--set="+value)
		}
		arguments = append(arguments, "--set-json=nodeGroups="+h.groups)
	}
	made := exec.Command(tool("helm"), arguments...)
	made.Env = append(os.Environ(), "HELM_CACHE_HOME="+h.t.TempDir(), "HELM_CONFIG_HOME="+h.t.TempDir())
	if text, err := made.CombinedOutput(); err != nil {
		h.t.Fatalf("helm %s: %v: %s", command, err, text)
	}
}

// stands says that so many pods run and none waits, and that VMs, Nodes and VPSieNodes are the same ones.
func (w *world) stands(pods int) error {
	running, waiting, err := w.pods()
	if err != nil {
		return err
	}
	nodes, err := w.nodes(isOurs)
	if err != nil {
		return err
	}
	machines, err := w.vpsie.workers()
	if err != nil {
		return err
	}
	records, err := w.cluster.records()
	if err != nil {
		return err
	}
	if running != pods || waiting != 0 || len(nodes) != len(machines) || len(records) != len(machines) || (pods == 0) != (len(machines) == 0) {
		return fmt.Errorf("%d pods run, %d wait; %d VMs, %d Nodes, %d VPSieNodes", running, waiting, len(machines), len(nodes), len(records))
	}
	return nil
}

func (w *world) uuids() string {
	w.t.Helper()
	machines, err := w.vpsie.workers()
	if err != nil {
		w.t.Fatal(err)
	}
	text := ""
	for _, machine := range machines {
		text += machine.UUID + " "
	}
	return text
}

// listen serves connections, each beside the others, until the test ends.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer client.Close()
				serve(client)
			}()
		}
	}()
	return listener.Addr().String()
}

// forward serves HTTP CONNECT for the names of Services, as cluster DNS and kube-proxy do.
func (k *kubelet) forward(client net.Conn) {
	reader := bufio.NewReader(client)
	request, err := http.ReadRequest(reader)
	if err != nil || request.Method != http.MethodConnect {
		return
	}
	server, err := k.dial(request.Host)
	if err != nil {
		_, _ = fmt.Fprintf(client, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
		return
	}
	defer server.Close()
	if _, err := io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	join(client, reader, server)
}

// dial connects to host:port, the host being the name of a Service in the cluster.
func (k *kubelet) dial(target string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		return nil, err
	}
	service, ours := strings.CutSuffix(host, "."+namespace+".svc")
	if !ours {
		return nil, fmt.Errorf("%s is no Service here", host)
	}
	address, err := k.resolve(service, port)
	if err != nil {
		return nil, err
	}
	return net.DialTimeout("tcp", address, time.Second)
}

// join passes bytes on both ways until one of both ends.
func join(client net.Conn, from io.Reader, server net.Conn) {
	ended := make(chan struct{}, 2)
	go func() { _, _ = io.Copy(server, from); ended <- struct{}{} }()
	go func() { _, _ = io.Copy(client, server); ended <- struct{}{} }()
	<-ended
}

// led starts Cluster Autoscaler, or the model of it, behind a tunnel with the certificate that a pod of it would have.
func (w *world) led(d driver, k *kubelet, dir string, files map[string][]byte) *process {
	w.t.Helper()
	pair, err := tls.X509KeyPair(files[core.TLSCertKey], files[core.TLSPrivateKeyKey])
	if err != nil {
		w.t.Fatal(err)
	}
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM(files["ca.crt"]) {
		w.t.Fatal("the client's Secret has no authority")
	}
	host := release + "." + namespace + ".svc"
	config := &tls.Config{
		Certificates: []tls.Certificate{pair}, RootCAs: authorities, ServerName: host, NextProtos: []string{"h2"},
		MinVersion: tls.VersionTLS12,
	}
	tunnel := listen(w.t, func(client net.Conn) {
		server, err := k.dial(host + ":8086")
		if err != nil {
			return
		}
		secured := tls.Client(server, config)
		defer secured.Close()
		join(client, client, secured)
	})
	return d.start(w.t, dir, w.cluster.kubeconfigOf("admin"), tunnel, nil)
}

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
	"slices"
	"strconv"
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

// TestInstall installs the chart with helm on a real API server, and runs the containers of its pods: the
// provider, and a real Cluster Autoscaler with the chart's arguments, files and rights. The model of Cluster
// Autoscaler reaches the provider through a tunnel with the chart's client certificate.
func TestInstall(t *testing.T) {
	installed(t, install)
}

// installed runs a test with each real Cluster Autoscaler, or else with the newest model.
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

// charted is a cluster that is ready for the chart, and the kubelet that runs the chart's pods.
type charted struct {
	*world
	driver  driver
	kubelet *kubelet
	helm    helm
}

// metricsPort is the port of the metrics of a real Cluster Autoscaler.
const metricsPort = "8085"

// chartedWorld has one NodeGroup with this maximum and these offers.
func chartedWorld(t *testing.T, d driver, maximum int, offers ...string) *charted {
	t.Helper()
	w := empty(t)
	w.cluster.must(t, "POST", "/api/v1/namespaces", object{"metadata": object{
		"name": namespace, "labels": object{"pod-security.kubernetes.io/enforce": "restricted"},
	}})
	w.cluster.must(t, "POST", "/api/v1/namespaces/"+namespace+"/secrets", object{
		"metadata": object{"name": secret}, "stringData": object{"token": "simulated-token", "url": w.vpsie.url + "/apps/v2"},
	})
	var k *kubelet
	services := listen(t, func(client net.Conn) { k.forward(client) })
	flag := func(kubeconfig string) []string { return []string{"--kubeconfig=" + kubeconfig} }
	// A proxy resolves the names of Services; addresses of this host are reached directly.
	proxied := func(string) []string { return []string{"HTTPS_PROXY=http://" + services} }
	k = startKubelet(t, w.cluster, map[string]program{
		"vpsie-autoscaler":   {os.Getenv("E2E_VPSIE_AUTOSCALER"), none, none},
		"explain":            {os.Getenv("E2E_VPSIE_AUTOSCALER"), none, none},
		"cluster-autoscaler": {d.binary, flag, proxied},
	})
	values := []string{
		"provider.observeInterval=1s", "vpsie.rateLimit=6000", "clusterAutoscaler.version=" + d.minor + ".0",
		fmt.Sprintf("clusterAutoscaler.enabled=%v", d.real()),
		// Repeated events are sent at once instead of after five minutes.
		"clusterAutoscaler.extraArgs.record-duplicated-events=true",
	}
	for _, flag := range append(hurry, "--address=0.0.0.0:"+metricsPort, "--node-delete-delay-after-taint=1s") {
		values = append(values, "clusterAutoscaler.extraArgs."+strings.TrimPrefix(flag, "--"))
	}
	group, err := json.Marshal([]object{{
		"name": "general", "minNodes": 0, "maxNodes": maximum, "datacenterID": "ams1",
		"resourceIdentifier": "5a1c94be-6f3d-11ef-9b52-bc24115e1e5f", "offeringIDs": offers,
	}})
	if err != nil {
		t.Fatal(err)
	}
	h := helm{t: t, kubeconfig: w.cluster.kubeconfigOf("admin"), values: values, groups: string(group)}
	return &charted{world: w, driver: d, kubelet: k, helm: h}
}

// install runs `helm install`. The returned function creates a check for the number of running pods and their
// nodes.
func (w *charted) install() func(pods int) func() error {
	w.t.Helper()
	w.helm.run("install", release, chart, "--wait", "--timeout=2m")
	w.note("helm install --wait %.0f s", time.Since(w.began).Seconds())
	leaders, err := w.cluster.client.CoreV1().Pods(namespace).List(background, meta.ListOptions{LabelSelector: "autoscaler.vpsie.com/role=leader"})
	if err != nil || len(leaders.Items) != 1 {
		w.t.Fatalf("%d replicas lead after `helm install --wait`, want 1: %v", len(leaders.Items), err)
	}
	var led *process
	if !w.driver.real() {
		made, err := w.cluster.client.CoreV1().Secrets(namespace).Get(background, release+"-client-tls", meta.GetOptions{})
		if err != nil {
			w.t.Fatal(err)
		}
		led = w.startThroughTunnel(w.driver, w.kubelet, w.cluster.dir, made.Data)
	}
	return func(count int) func() error {
		return func() error {
			if led != nil {
				if err := led.ended(); err != nil {
					return fatal{err}
				}
			}
			return w.checkRunning(count)
		}
	}
}

func install(t *testing.T, d driver) {
	w := chartedWorld(t, d, 6, small, large)
	h := w.helm
	w.began = time.Now()
	w.deploy("web", 4, "800m", "500Mi")
	runs := w.install()
	await(t, "the first pod runs on a new node", 2*time.Minute, func() error {
		running, _, err := w.pods()
		if err == nil && running == 0 {
			err = errors.New("no container runs")
		}
		return err
	})
	w.note("first pod on a new node %.0f s after the command", time.Since(w.began).Seconds())
	await(t, "all pods run", 2*time.Minute, runs(4))
	h.run("test", release, "--timeout=1m")
	if d.real() {
		w.awaitRepeatedEvent()
	}

	before, failures := w.uuids(), w.failures()
	h.values = append(h.values, "provider.logLevel=debug", "provider.replicaCount=3")
	w.scale("web", 6)
	h.run("upgrade", release, chart, "--wait", "--timeout=2m")
	await(t, "a scale-up completes during the upgrade", 2*time.Minute, runs(6))
	w.scale("web", 8)
	h.run("rollback", release, "1", "--wait", "--timeout=2m")
	await(t, "a scale-up completes during the rollback", 2*time.Minute, runs(8))
	for _, machine := range before {
		if !slices.Contains(w.uuids(), machine) {
			t.Errorf("VM %s existed before the upgrade and is gone after the rollback", machine)
		}
	}
	if after := w.failures(); after != failures {
		t.Errorf("failed loops and scale-ups of Cluster Autoscaler: %v before the upgrade, %v after the rollback", failures, after)
	}

	// Also of Cluster Autoscaler, which deletes its status ConfigMap when it ends.
	h.values = append(h.values, "clusterAutoscaler.extraArgs.v=5")
	h.run("upgrade", release, chart, "--wait", "--timeout=2m")
	w.scale("web", 0)
	await(t, "a scale-down completes", 2*time.Minute, runs(0))
	w.cluster.checkRights(t, d)
	h.run("uninstall", release, "--wait", "--timeout=1m")
	groups, err := w.cluster.nodeGroups()
	if err != nil || len(groups) != 1 {
		t.Errorf("NodeGroups after an uninstall: %v, %v", groups, err)
	}
	line := fmt.Sprintf("%-26s install; %s", d.name, strings.Join(w.notes, ", "))
	summary.Lock()
	defer summary.Unlock()
	summary.lines = append(summary.lines, line)
}

// awaitRepeatedEvent makes Cluster Autoscaler send an event in each loop, for a pod that fits no node.
func (w *world) awaitRepeatedEvent() {
	w.t.Helper()
	w.deploy("giant", 1, "64", "500Mi")
	await(w.t, "an event of Cluster Autoscaler repeats", time.Minute, func() error {
		events, err := w.cluster.client.CoreV1().Events("default").List(background, meta.ListOptions{})
		if err != nil {
			return err
		}
		for _, event := range events.Items {
			if event.Source.Component == "cluster-autoscaler" && event.Count > 1 {
				return nil
			}
		}
		return errors.New("no event of Cluster Autoscaler has a count above 1")
	})
	w.scale("giant", 0)
}

// TestWrongCredentials installs the chart with a token that VPSie refuses: the installation fails with the
// reason, and succeeds with the right token.
func TestWrongCredentials(t *testing.T) {
	t.Parallel()
	w := chartedWorld(t, driver{minor: newest}, 6, small)
	w.cluster.rotate(t, "wrong")
	if err := w.helm.try("install", release, chart, "--wait", "--timeout=40s"); err == nil {
		t.Error("`helm install --wait` succeeded with a wrong token")
	}
	w.cluster.rotate(t, "simulated-token")
	await(t, "a replica leads", time.Minute, func() error {
		_, err := w.kubelet.resolve(release, "8086")
		return err
	})
}

// empty is a managed cluster without the chart.
func empty(t *testing.T) *world {
	t.Helper()
	dir := scratch(t)
	w := &world{t: t, cluster: startControlPlane(t, dir, "")}
	w.vpsie = startSimulator(t, dir, w.cluster.kubeconfigOf("admin"), simulated)
	await(t, "the foreign nodes are ready", 30*time.Second, func() error {
		nodes, err := w.nodes(ready)
		if err == nil && len(nodes) != 2 {
			err = fmt.Errorf("%d are", len(nodes))
		}
		return err
	})
	return w
}

func none(string) []string { return nil }

// helm runs `helm` commands.
type helm struct {
	t          *testing.T
	kubeconfig string
	values     []string
	groups     string
}

func (h helm) run(command string, arguments ...string) {
	h.t.Helper()
	if err := h.try(command, arguments...); err != nil {
		h.t.Fatal(err)
	}
}

func (h helm) try(command string, arguments ...string) error {
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
		return fmt.Errorf("helm %s: %w: %s", command, err, text)
	}
	return nil
}

// checkRunning checks that this number of pods runs, none waits, and VMs, Nodes and VPSieNodes are equal in
// number.
func (w *world) checkRunning(pods int) error {
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

func (w *world) uuids() []string {
	w.t.Helper()
	machines, err := w.vpsie.workers()
	if err != nil {
		w.t.Fatal(err)
	}
	var uuids []string
	for _, machine := range machines {
		uuids = append(uuids, machine.UUID)
	}
	return uuids
}

// failures returns the number of failed loops and scale-ups in the metrics of a real Cluster Autoscaler; 0
// for the model.
func (w *charted) failures() float64 {
	w.t.Helper()
	if !w.driver.real() {
		return 0
	}
	address := ""
	for _, running := range w.kubelet.runningPods() {
		if running.pod.Spec.Containers[0].Name == "cluster-autoscaler" {
			address = running.address
		}
	}
	response, err := probe.Get("http://" + address + ":" + metricsPort + "/metrics")
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	failed := 0.0
	for line := range strings.Lines(string(content)) {
		if !strings.HasPrefix(line, "cluster_autoscaler_errors_total") && !strings.HasPrefix(line, "cluster_autoscaler_failed_scale_ups_total") {
			continue
		}
		value, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndex(line, " "):]), 64)
		if err != nil {
			w.t.Fatal(err)
		}
		failed += value
	}
	return failed
}

// listen serves connections concurrently until the test ends.
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

// forward serves HTTP CONNECT for names of Services, in place of cluster DNS and kube-proxy.
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

// dial connects to host:port, where host is the name of a Service.
func (k *kubelet) dial(target string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		return nil, err
	}
	service, ours := strings.CutSuffix(host, "."+namespace+".svc")
	if !ours {
		return nil, fmt.Errorf("%s must be the name of a Service", host)
	}
	address, err := k.resolve(service, port)
	if err != nil {
		return nil, err
	}
	return net.DialTimeout("tcp", address, time.Second)
}

// join copies bytes in both directions until one side ends.
func join(client net.Conn, from io.Reader, server net.Conn) {
	ended := make(chan struct{}, 2)
	go func() { _, _ = io.Copy(server, from); ended <- struct{}{} }()
	go func() { _, _ = io.Copy(client, server); ended <- struct{}{} }()
	<-ended
}

// startThroughTunnel starts a Cluster Autoscaler behind a tunnel with the client certificate of the chart.
func (w *world) startThroughTunnel(d driver, k *kubelet, dir string, files map[string][]byte) *process {
	w.t.Helper()
	pair, err := tls.X509KeyPair(files[core.TLSCertKey], files[core.TLSPrivateKeyKey])
	if err != nil {
		w.t.Fatal(err)
	}
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM(files["ca.crt"]) {
		w.t.Fatal("the Secret of the client has no certificate authority")
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

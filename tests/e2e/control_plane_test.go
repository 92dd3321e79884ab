package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// token is the token of the administrator.
const token = "e2e-admin"

// controlPlane is etcd, kube-apiserver, kube-scheduler and kube-controller-manager, with kwok to run the
// pods.
type controlPlane struct {
	dir       string
	url       string
	client    kubernetes.Interface
	arguments []string // of kube-apiserver
	// joinable lets machines join with bootstrap tokens.
	joinable  bool
	apiserver *process
	served    time.Time // time since which it is ready
}

// startControlPlane starts all components. `scheduler` is added to the configuration of kube-scheduler; it
// may be empty.
func startControlPlane(t testing.TB, dir, scheduler string) *controlPlane {
	t.Helper()
	return plane{scheduler: scheduler}.start(t, dir)
}

// plane is the configuration of a control plane.
type plane struct {
	// scheduler is added to the configuration of kube-scheduler.
	scheduler string
	// joinable lets machines join with bootstrap tokens, as kubeadm configures it.
	joinable bool
	// withoutKubelets leaves the status of Nodes to real kubelets.
	withoutKubelets bool
}

// start starts all components.
func (p plane) start(t testing.TB, dir string) *controlPlane {
	t.Helper()
	pki(t, dir)
	etcd, peer, api := port(t), port(t), port(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	url := func(scheme string, port int) string { return fmt.Sprintf("%s://127.0.0.1:%d", scheme, port) }
	c := &controlPlane{dir: dir, url: url("https", api), joinable: p.joinable}
	c.admit(t, "admin", token)
	write(t, in("tokens.csv"), []byte(token+",admin,admin,system:masters\n"))
	write(t, in("audit.yaml"), []byte(audited))

	start(t, dir, "etcd", tool("etcd"), "--data-dir="+in("etcd"), "--unsafe-no-fsync", "--log-level=error",
		"--listen-client-urls="+url("http", etcd), "--advertise-client-urls="+url("http", etcd),
		"--listen-peer-urls="+url("http", peer), "--initial-advertise-peer-urls="+url("http", peer),
		"--initial-cluster=default="+url("http", peer))
	c.arguments = []string{"--etcd-servers=" + url("http", etcd),
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", api),
		"--tls-cert-file=" + in("server.crt"), "--tls-private-key-file=" + in("server.key"),
		"--token-auth-file=" + in("tokens.csv"),
		"--audit-policy-file=" + in("audit.yaml"), "--audit-log-path=" + in("audit.log"),
		"--disable-admission-plugins=ServiceAccount", "--service-cluster-ip-range=10.0.0.0/24",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + in("service-account.key"),
		"--service-account-signing-key-file=" + in("service-account.key")}
	controllers := "*,-node-ipam-controller,-node-route-controller,-service-lb-controller,-cloud-node-lifecycle-controller"
	var signing []string
	if p.joinable {
		c.arguments = append(c.arguments, "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
			"--enable-bootstrap-token-auth", "--client-ca-file="+in("ca.crt"))
		controllers += ",bootstrap-signer-controller,token-cleaner-controller"
		signing = []string{"--cluster-signing-cert-file=" + in("ca.crt"), "--cluster-signing-key-file=" + in("ca.key"),
			"--root-ca-file=" + in("ca.crt")}
	} else {
		c.arguments = append(c.arguments, "--authorization-mode=RBAC")
	}
	config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfigOf("admin"))
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst, config.Timeout = -1, -1, 10*time.Second
	c.client, err = kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.apiserver != nil {
			c.apiserver.stop()
		}
	})
	c.serve(t)

	admin := "--kubeconfig=" + c.kubeconfigOf("admin")
	write(t, in("scheduler.yaml"), fmt.Appendf(nil, scheduled, c.kubeconfigOf("admin"), p.scheduler))
	start(t, dir, "kube-scheduler", tool("kube-scheduler"), "--config="+in("scheduler.yaml"),
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port(t)), "--cert-dir="+in("scheduler"))
	// A Node without heartbeats is not ready after 25 seconds, instead of 50.
	start(t, dir, "kube-controller-manager", tool("kube-controller-manager"), append(signing, admin,
		"--leader-elect=false", "--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port(t)),
		"--cert-dir="+in("controller-manager"), "--node-monitor-grace-period=25s", "--controllers="+controllers)...)
	if p.withoutKubelets {
		return c
	}
	stages, err := filepath.Abs("kwok.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// The simulator renews the Leases. With two renewers, each would regard the nodes as those of the other.
	start(t, dir, "kwok", tool("kwok"), admin, "--config="+stages, "--manage-all-nodes",
		"--node-lease-duration-seconds=0", fmt.Sprintf("--server-address=127.0.0.1:%d", port(t)))
	return c
}

// serve starts the API server, also after it was killed.
func (c *controlPlane) serve(t testing.TB) {
	t.Helper()
	var err error
	if c.apiserver, err = launch(c.dir, "kube-apiserver", tool("kube-apiserver"), c.arguments...); err != nil {
		t.Fatal(err)
	}
	await(t, "kube-apiserver is ready", time.Minute, func() error {
		if err := c.apiserver.ended(); err != nil {
			return fatal{err}
		}
		return c.client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(context.Background()).Error()
	})
	c.served = time.Now()
}

// admit writes the kubeconfig of a user.
func (c *controlPlane) admit(t testing.TB, user, token string) {
	t.Helper()
	write(t, c.kubeconfigOf(user), fmt.Appendf(nil, kubeconfig, filepath.Join(c.dir, "ca.crt"), c.url, token))
}

func (c *controlPlane) kubeconfigOf(user string) string {
	return filepath.Join(c.dir, user+".kubeconfig")
}

// file returns the path of a file of pki.
func (c *controlPlane) file(name string) string {
	return filepath.Join(c.dir, name)
}

// tool returns the path of a tool that `run` has built.
func tool(name string) string {
	return filepath.Join(os.Getenv("E2E_TOOLS"), name)
}

const kubeconfig = `apiVersion: v1
kind: Config
current-context: e2e
contexts: [{name: e2e, context: {cluster: e2e, user: e2e}}]
clusters: [{name: e2e, cluster: {certificate-authority: %q, server: %q}}]
users: [{name: e2e, user: {token: %q}}]
`

const scheduled = `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
clientConnection: {kubeconfig: %q, qps: 1000, burst: 1000}
leaderElection: {leaderElect: false}
%s`

// The requests of the installed programs are logged, so that the test can find refused ones.
const audited = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, users: ["system:serviceaccount:` + namespace + `:vpsie-autoscaler", "system:serviceaccount:` + namespace + `:vpsie-autoscaler-cluster-autoscaler"]}
- {level: None}
`

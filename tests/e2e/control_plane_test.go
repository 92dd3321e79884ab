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

const token = "e2e-admin"

// controlPlane is etcd, kube-apiserver, kube-scheduler and kube-controller-manager, with kwok to run the pods.
type controlPlane struct {
	dir        string
	kubeconfig string
	client     kubernetes.Interface
}

func startControlPlane(t testing.TB, dir string) *controlPlane {
	t.Helper()
	pki(t, dir)
	etcd, peer, api := port(t), port(t), port(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	url := func(scheme string, port int) string { return fmt.Sprintf("%s://127.0.0.1:%d", scheme, port) }
	write(t, in("tokens.csv"), []byte(token+",admin,admin,system:masters\n"))
	write(t, in("kubeconfig"), fmt.Appendf(nil, kubeconfig, in("ca.crt"), url("https", api), token))

	start(t, dir, "etcd", tool("etcd"), "--data-dir="+in("etcd"), "--unsafe-no-fsync", "--log-level=error",
		"--listen-client-urls="+url("http", etcd), "--advertise-client-urls="+url("http", etcd),
		"--listen-peer-urls="+url("http", peer), "--initial-advertise-peer-urls="+url("http", peer),
		"--initial-cluster=default="+url("http", peer))
	apiserver := start(t, dir, "kube-apiserver", tool("kube-apiserver"), "--etcd-servers="+url("http", etcd),
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", api),
		"--tls-cert-file="+in("server.crt"), "--tls-private-key-file="+in("server.key"),
		"--token-auth-file="+in("tokens.csv"), "--authorization-mode=AlwaysAllow",
		"--disable-admission-plugins=ServiceAccount", "--service-cluster-ip-range=10.0.0.0/24",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+in("service-account.key"),
		"--service-account-signing-key-file="+in("service-account.key"))
	config, err := clientcmd.BuildConfigFromFlags("", in("kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst = -1, -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	await(t, "kube-apiserver is ready", time.Minute, func() error {
		if err := apiserver.ended(); err != nil {
			return fatal{err}
		}
		return client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(context.Background()).Error()
	})

	start(t, dir, "kube-scheduler", tool("kube-scheduler"), "--kubeconfig="+in("kubeconfig"),
		"--leader-elect=false", "--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port(t)),
		"--cert-dir="+in("scheduler"))
	start(t, dir, "kube-controller-manager", tool("kube-controller-manager"), "--kubeconfig="+in("kubeconfig"),
		"--leader-elect=false", "--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port(t)),
		"--cert-dir="+in("controller-manager"),
		"--controllers=*,-node-ipam-controller,-node-route-controller,-service-lb-controller,-cloud-node-lifecycle-controller")
	stages, err := filepath.Abs("kwok.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// Leases are the simulator's: two that renew one would take each other's nodes for somebody else's.
	start(t, dir, "kwok", tool("kwok"), "--kubeconfig="+in("kubeconfig"), "--config="+stages, "--manage-all-nodes",
		"--node-lease-duration-seconds=0", fmt.Sprintf("--server-address=127.0.0.1:%d", port(t)))
	return &controlPlane{dir: dir, kubeconfig: in("kubeconfig"), client: client}
}

// tool is the path of one of the tools that `run` has built.
func tool(name string) string {
	return filepath.Join(os.Getenv("E2E_TOOLS"), name)
}

const kubeconfig = `apiVersion: v1
kind: Config
current-context: e2e
contexts: [{name: e2e, context: {cluster: e2e, user: admin}}]
clusters: [{name: e2e, cluster: {certificate-authority: %q, server: %q}}]
users: [{name: admin, user: {token: %q}}]
`

package e2e

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"
	failures "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// tokenGroups are the groups of bootstrap tokens of kubeadm and k3s. k3s has no certificate requests; the simulated
// agents of k3s send them like kubeadm.
var tokenGroups = []string{
	"system:bootstrappers:kubeadm:default-node-token", "system:bootstrappers:k3s:default-node-token",
}

// endpoint returns the address of the API server, as host:port.
func (c *controlPlane) endpoint(t testing.TB) string {
	t.Helper()
	parsed, err := url.Parse(c.url)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.Host
}

// permitJoins creates the objects by which kubeadm lets machines join: the ConfigMap cluster-info, and the rights of
// bootstrap tokens.
func (c *controlPlane) permitJoins(t *testing.T) {
	t.Helper()
	authority, err := os.ReadFile(c.file("ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	info := fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters:\n- name: \"\"\n  cluster:\n    server: %s\n"+
		"    certificate-authority-data: %s\n", c.url, base64.StdEncoding.EncodeToString(authority))
	await(t, "the namespace kube-public exists", 30*time.Second, func() error {
		there, err := c.get("/api/v1/namespaces/kube-public", &object{})
		if err == nil && !there {
			err = errors.New("it does not")
		}
		return err
	})
	c.must(t, "POST", "/api/v1/namespaces/kube-public/configmaps", object{
		"metadata": object{"name": "cluster-info"}, "data": object{"kubeconfig": info},
	})
	const rights = "/apis/rbac.authorization.k8s.io/v1/"
	const group = "rbac.authorization.k8s.io"
	subject := func(kind, name string) []object { return []object{{"kind": kind, "name": name, "apiGroup": group}} }
	reference := func(kind, name string) object { return object{"kind": kind, "name": name, "apiGroup": group} }
	const reader = "kubeadm:bootstrap-signer-clusterinfo"
	c.must(t, "POST", rights+"namespaces/kube-public/roles", object{
		"metadata": object{"name": reader}, "rules": []object{
			{"apiGroups": []string{""}, "resources": []string{"configmaps"}, "resourceNames": []string{"cluster-info"}, "verbs": []string{"get"}},
		},
	})
	c.must(t, "POST", rights+"namespaces/kube-public/rolebindings", object{
		"metadata": object{"name": reader}, "roleRef": reference("Role", reader), "subjects": subject("User", "system:anonymous"),
	})
	c.must(t, "POST", rights+"clusterroles", object{
		"metadata": object{"name": "kubeadm:get-nodes"}, "rules": []object{
			{"apiGroups": []string{""}, "resources": []string{"nodes"}, "verbs": []string{"get"}},
		},
	})
	for _, group := range tokenGroups {
		suffix := ""
		if group != tokenGroups[0] {
			suffix = ":k3s"
		}
		for name, role := range map[string]string{
			"kubeadm:kubelet-bootstrap":          "system:node-bootstrapper",
			"kubeadm:node-autoapprove-bootstrap": "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
			"kubeadm:get-nodes":                  "kubeadm:get-nodes",
		} {
			c.must(t, "POST", rights+"clusterrolebindings", object{
				"metadata": object{"name": name + suffix}, "roleRef": reference("ClusterRole", role), "subjects": subject("Group", group),
			})
		}
	}
	const renewal = "kubeadm:node-autoapprove-certificate-rotation"
	c.must(t, "POST", rights+"clusterrolebindings", object{
		"metadata": object{"name": renewal}, "subjects": subject("Group", "system:nodes"),
		"roleRef": reference("ClusterRole", "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient"),
	})
}

// clientOf returns a client that trusts the CA of the cluster.
func (c *controlPlane) clientOf(t testing.TB, credential rest.Config) kubernetes.Interface {
	t.Helper()
	credential.Host, credential.TLSClientConfig.CAFile = c.url, c.file("ca.crt")
	credential.Timeout = 10 * time.Second
	client, err := kubernetes.NewForConfig(&credential)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// checkToken returns the error of a request that each bootstrap token of these groups may send.
func (c *controlPlane) checkToken(t testing.TB, token string) error {
	t.Helper()
	client := c.clientOf(t, rest.Config{BearerToken: token})
	_, err := client.CoreV1().Nodes().Get(background, "none", meta.GetOptions{})
	if failures.IsNotFound(err) {
		return nil
	}
	return err
}

// TestJoin checks the control plane alone: a machine joins with a bootstrap token, as kubeadm's does.
func TestJoin(t *testing.T) {
	c := plane{joinable: true}.start(t, scratch(t))
	c.permitJoins(t)

	anonymous := c.clientOf(t, rest.Config{})
	info, err := anonymous.CoreV1().ConfigMaps("kube-public").Get(background, "cluster-info", meta.GetOptions{})
	if err != nil || info.Data["kubeconfig"] == "" {
		t.Fatalf("cluster-info: %v %v", err, info)
	}
	if _, err := anonymous.CoreV1().Nodes().List(background, meta.ListOptions{}); !failures.IsForbidden(err) {
		t.Errorf("the list of Nodes for everyone: %v", err)
	}

	const id, key = "abcdef", "0123456789abcdef"
	secret := c.createToken(t, id, key)
	await(t, "the token is accepted", 20*time.Second, func() error { return c.checkToken(t, id+"."+key) })
	await(t, "cluster-info is signed with the token", 20*time.Second, func() error {
		info, err := anonymous.CoreV1().ConfigMaps("kube-public").Get(background, "cluster-info", meta.GetOptions{})
		if err == nil && info.Data["jws-kubeconfig-"+id] == "" {
			err = errors.New("it is not")
		}
		return err
	})

	const name = "web-0a1b2c3d-1"
	kubelet := c.register(t, id+"."+key, name)
	node := func(name string, labels map[string]string) *core.Node {
		return &core.Node{ObjectMeta: meta.ObjectMeta{Name: name, Labels: labels}}
	}
	create := func(node *core.Node) error {
		_, err := kubelet.CoreV1().Nodes().Create(background, node, meta.CreateOptions{})
		return err
	}
	if err := create(node("other", nil)); !failures.IsForbidden(err) {
		t.Errorf("a Node of another name: %v", err)
	}
	if err := create(node(name, map[string]string{"node-restriction.kubernetes.io/team": "one"})); !failures.IsForbidden(err) {
		t.Errorf("a label that a kubelet must not set: %v", err)
	}
	if err := create(node(name, map[string]string{managed: "true", "topology.kubernetes.io/zone": "ams1"})); err != nil {
		t.Error(err)
	}

	if err := c.client.CoreV1().Secrets("kube-system").Delete(background, secret.Name, meta.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, "the deleted token is refused", 20*time.Second, func() error {
		if err := c.checkToken(t, id+"."+key); !failures.IsUnauthorized(err) {
			return fmt.Errorf("the reply is %v", err)
		}
		return nil
	})
}

// register gets a client certificate with a bootstrap token, and returns the client of that kubelet.
func (c *controlPlane) register(t testing.TB, token, name string) kubernetes.Interface {
	t.Helper()
	own := key(t)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "system:node:" + name, Organization: []string{"system:nodes"}},
	}, own)
	if err != nil {
		t.Fatal(err)
	}
	requests := c.clientOf(t, rest.Config{BearerToken: token}).CertificatesV1().CertificateSigningRequests()
	request, err := requests.Create(background, &certificates.CertificateSigningRequest{
		ObjectMeta: meta.ObjectMeta{GenerateName: "csr-"},
		Spec: certificates.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName: certificates.KubeAPIServerClientKubeletSignerName,
			Usages:     []certificates.KeyUsage{certificates.UsageDigitalSignature, certificates.UsageClientAuth},
		},
	}, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var issued []byte
	await(t, "the certificate is issued", 30*time.Second, func() error {
		found, err := requests.Get(background, request.Name, meta.GetOptions{})
		if err == nil && len(found.Status.Certificate) == 0 {
			err = fmt.Errorf("%+v", found.Status)
		}
		if err == nil {
			issued = found.Status.Certificate
		}
		return err
	})
	private, err := x509.MarshalECPrivateKey(own)
	if err != nil {
		t.Fatal(err)
	}
	return c.clientOf(t, rest.Config{TLSClientConfig: rest.TLSClientConfig{
		CertData: issued, KeyData: pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}),
	}})
}

// createToken creates a bootstrap token as kubeadm does.
func (c *controlPlane) createToken(t testing.TB, id, key string) *core.Secret {
	t.Helper()
	secret, err := c.client.CoreV1().Secrets("kube-system").Create(background, &core.Secret{
		ObjectMeta: meta.ObjectMeta{Name: "bootstrap-token-" + id}, Type: core.SecretTypeBootstrapToken,
		StringData: map[string]string{
			"token-id": id, "token-secret": key, "usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true",
			"auth-extra-groups": tokenGroups[0], "expiration": time.Now().Add(time.Hour).UTC().Format(time.RFC3339),
		},
	}, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

// publicKeyHash returns the hash of the CA's public key, as kubeadm has it.
func (c *controlPlane) publicKeyHash(t testing.TB) string {
	t.Helper()
	content, err := os.ReadFile(c.file("ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(content)
	authority, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256(authority.RawSubjectPublicKeyInfo))
}

// TestBoot checks the simulator's VMs alone: they join with their payload, and with nothing else.
func TestBoot(t *testing.T) {
	dir := scratch(t)
	w := &world{t: t, cluster: plane{joinable: true}.start(t, dir)}
	w.cluster.permitJoins(t)
	w.vpsie = startSimulator(t, dir, w.cluster.kubeconfigOf("admin"), plainVMs, "--boot-vms")
	w.cluster.createToken(t, "abcdef", "0123456789abcdef")
	payload := func(name, token, hash string) string {
		return fmt.Sprintf(`#!/bin/sh
cat >/run/join.yaml <<'END'
apiVersion: kubeadm.k8s.io/v1beta4
kind: JoinConfiguration
discovery:
  bootstrapToken: {apiServerEndpoint: %q, token: %q, caCertHashes: [%q]}
nodeRegistration:
  name: %q
  taints: []
  kubeletExtraArgs:
  - {name: node-labels, value: "%s=true"}
END
kubeadm join --config /run/join.yaml
`, w.cluster.endpoint(t), token, hash, name, managed)
	}
	right := w.cluster.publicKeyHash(t)
	const token = "abcdef.0123456789abcdef"
	for name, script := range map[string]string{
		"joins":        payload("joins", token, right),
		"other-ca":     payload("other-ca", token, "sha256:"+strings.Repeat("0", 64)),
		"other-token":  payload("other-token", "abcdef.fedcba9876543210", right),
		"no-join":      "#!/bin/sh\ntrue\n",
		"cloud-config": "#cloud-config\n",
	} {
		w.createVM(name, "", object{"userData": script})
	}
	want := map[string]string{
		"joins": "joined ", "other-ca": "refused the CA that the API server shows does not have the hash in the payload",
		"other-token": "refused the API server refuses the credential (401)", "no-join": "refused the script writes no configuration",
		"cloud-config": "refused the payload does not begin with #!",
	}
	await(t, "each VM joins or refuses", 40*time.Second, func() error {
		seen, err := w.vpsie.overview()
		for _, machine := range seen.VMs {
			is := machine.Plain.Boot.State + " " + machine.Plain.Boot.Reason
			if expected, ok := want[machine.Hostname]; ok && !strings.HasPrefix(is, expected) {
				err = errors.Join(err, fmt.Errorf("%s: %s", machine.Hostname, is))
			}
		}
		return err
	})
	w.deploy("web", 1, "100m", "100Mi")
	await(t, "a pod runs", 40*time.Second, func() error {
		running, waiting, err := w.pods()
		if err == nil && running != 1 {
			err = fmt.Errorf("%d run, %d wait", running, waiting)
		}
		return err
	})
	if nodes, err := w.nodes(isOurs); err != nil || len(nodes) != 1 || nodes[0].Name != "joins" || !ready(nodes[0]) {
		t.Errorf("Nodes: %v %v", nodes, err)
	}
}

package install

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	fake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/scheme"
)

const host = provider + "." + namespace + ".svc"

// cluster replies to `lookup` in templates with the objects of an earlier installation.
type cluster struct{ dynamic.Interface }

func installed(made rendered) cluster {
	var secrets []runtime.Object
	for _, object := range made.objects {
		if object.GetKind() == "Secret" {
			secrets = append(secrets, object)
		}
	}
	return cluster{fake.NewSimpleDynamicClient(scheme.Scheme, secrets...)}
}

func (c cluster) GetClientFor(version, kind string) (dynamic.NamespaceableResourceInterface, bool, error) {
	if version != "v1" || kind != "Secret" {
		return nil, false, fmt.Errorf("the chart looks for %s %s", version, kind)
	}
	return c.Resource(schema.GroupVersionResource{Version: "v1", Resource: "secrets"}), true, nil
}

func upgrade(t testing.TB, before rendered, given values) rendered {
	t.Helper()
	made, err := renderWith(t, given, installed(before))
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// secret returns the files of the Secret of one side.
func secret(t testing.TB, made rendered, side string) map[string][]byte {
	t.Helper()
	return get[core.Secret](t, made.objects, "Secret", provider+"-"+side+"-tls").Data
}

// shake performs a TLS handshake between a client and a server with these Secrets.
func shake(t testing.TB, server, client map[string][]byte, name string, now time.Time) error {
	t.Helper()
	pair := func(side map[string][]byte) ([]tls.Certificate, *x509.CertPool) {
		certificate, err := tls.X509KeyPair(side["tls.crt"], side["tls.key"])
		if err != nil {
			t.Fatal(err)
		}
		authorities := x509.NewCertPool()
		if !authorities.AppendCertsFromPEM(side["ca.crt"]) {
			t.Fatal("ca.crt holds no certificate")
		}
		return []tls.Certificate{certificate}, authorities
	}
	clock := func() time.Time { return now }
	ours, theirs := &tls.Config{Time: clock}, &tls.Config{Time: clock, ServerName: name}
	ours.Certificates, ours.ClientCAs = pair(server)
	ours.ClientAuth = tls.RequireAndVerifyClientCert
	theirs.Certificates, theirs.RootCAs = pair(client)

	left, right := net.Pipe()
	defer left.Close()
	defer right.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	failed := make(chan error, 1)
	go func() {
		err := tls.Server(left, ours).HandshakeContext(ctx)
		if err != nil {
			left.Close()
		}
		failed <- err
	}()
	if err := tls.Client(right, theirs).HandshakeContext(ctx); err != nil {
		return err
	}
	return <-failed
}

func TestGeneratedCertificatesConnectClusterAutoscalerAndProvider(t *testing.T) {
	made := render(t, nil)
	server, client := secret(t, made, "server"), secret(t, made, "client")
	soon := time.Now().Add(time.Minute)
	if err := shake(t, server, client, host, soon); err != nil {
		t.Errorf("handshake with the name in cloud-config: %v", err)
	}
	if err := shake(t, server, client, "other."+namespace+".svc", soon); err == nil {
		t.Error("the certificate of the server is valid for other names")
	}
	if err := shake(t, server, client, host, soon.AddDate(1, 0, 2)); err == nil {
		t.Error("the certificates are valid for longer than a year")
	}
	if err := shake(t, server, secret(t, render(t, nil), "client"), host, soon); err == nil {
		t.Error("the server accepts the client of another release")
	}
	short := render(t, fromYAML(t, "tls: {generated: {days: 30}}"))
	if err := shake(t, secret(t, short, "server"), secret(t, short, "client"), host, soon.AddDate(0, 0, 31)); err == nil {
		t.Error("tls.generated.days has no effect")
	}
}

const rolls = "checksum/tls"

func TestUpgradesKeepCertificates(t *testing.T) {
	before := render(t, nil)
	after := upgrade(t, before, fromYAML(t, "provider: {replicaCount: 3}"))
	for _, object := range before.objects {
		if object.GetKind() == "Secret" && !equal(object, after.find("Secret", object.GetName())) {
			t.Errorf("Secret %s changes", object.GetName())
		}
	}
	if before.pods(t)[autoscale].Annotations[rolls] != after.pods(t)[autoscale].Annotations[rolls] {
		t.Error("Cluster Autoscaler is restarted without a reason")
	}
}

// until sets the annotation with the expiry date of a Secret.
func until(made rendered, name string, at time.Time) {
	annotations := made.find("Secret", name).GetAnnotations()
	annotations["autoscaler.vpsie.com/not-after"] = at.UTC().Format(time.RFC3339)
	made.find("Secret", name).SetAnnotations(annotations)
}

func TestUpgradeRenewsCertificatesInTheLastThirdOfTheirLife(t *testing.T) {
	third := time.Now().Add(365 * 24 * time.Hour / 3)
	now := time.Now().Add(time.Minute)
	for _, side := range []string{"server", "client"} {
		before := render(t, nil)
		until(before, provider+"-"+side+"-tls", third.Add(time.Hour))
		if same := upgrade(t, before, nil); string(secret(t, same, side)["tls.crt"]) != string(secret(t, before, side)["tls.crt"]) {
			t.Errorf("%s: renewed with more than a third of its lifetime left", side)
		}
		until(before, provider+"-"+side+"-tls", third.Add(-time.Hour))
		after := upgrade(t, before, nil)
		if string(secret(t, after, side)["tls.crt"]) == string(secret(t, before, side)["tls.crt"]) {
			t.Errorf("%s: not renewed", side)
		}
		// Kubelets take up to a minute, so one side may still have old files.
		for _, pair := range [][2]rendered{{before, after}, {after, before}, {after, after}} {
			if err := shake(t, secret(t, pair[0], "server"), secret(t, pair[1], "client"), host, now); err != nil {
				t.Errorf("%s renewed: %v", side, err)
			}
		}
		restarted := before.pods(t)[autoscale].Annotations[rolls] != after.pods(t)[autoscale].Annotations[rolls]
		if restarted != (side == "client") {
			t.Errorf("%s renewed: Cluster Autoscaler is restarted: %v", side, restarted)
		}
		if !equal(before.find("Deployment", provider), after.find("Deployment", provider)) {
			t.Errorf("%s renewed: the provider is restarted, although it reloads its files", side)
		}
	}
}

func TestUpgradeReplacesCertificatesOfAnotherAuthority(t *testing.T) {
	before := render(t, nil)
	other := render(t, nil).find("Secret", provider+"-client-tls")
	*before.find("Secret", provider+"-client-tls") = *other
	after := upgrade(t, before, nil)
	if err := shake(t, secret(t, after, "server"), secret(t, after, "client"), host, time.Now().Add(time.Minute)); err != nil {
		t.Error(err)
	}
}

// Helm stores the values with the release, and `--reuse-values` restores them.
func TestRenderingDoesNotChangeTheValues(t *testing.T) {
	loaded := loadChart(t)
	before := copied(loaded.Values)
	if _, err := renderChart(t, loaded, nil, nil); err != nil {
		t.Fatal(err)
	}
	if !equal(before, loaded.Values) {
		t.Errorf("the values became %v", loaded.Values)
	}
}

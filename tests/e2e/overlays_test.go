package e2e

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestOverlays sends the kustomize output of the base and the overlays to the API server, as
// `kubectl apply --dry-run=server` does.
func TestOverlays(t *testing.T) {
	t.Parallel()
	w := &world{t: t, cluster: startControlPlane(t, scratch(t), "")}
	for _, path := range []string{"base", "overlays/dev", "overlays/staging", "overlays/production"} {
		count := 0
		for _, given := range buildKustomization(t, path) {
			if given["kind"] == "Namespace" {
				if _, err := w.cluster.call("POST", "/api/v1/namespaces", given); err != nil && !strings.Contains(err.Error(), "already exists") {
					t.Errorf("%s: %v", path, err)
				}
			} else if err := w.cluster.createDryRun(given); err != nil {
				t.Errorf("%s: %v %v: %v", path, given["kind"], given["metadata"], err)
			}
			count++
		}
		if count < 10 {
			t.Errorf("%s: %d objects", path, count)
		}
	}
}

// TestProduction applies the production overlay and runs the containers of its pods, in scenarios a to c.
func TestProduction(t *testing.T) {
	installed(t, production)
}

func production(t *testing.T, d driver) {
	w := empty(t)
	dir := w.cluster.dir
	crds, err := filepath.Glob("../../deployments/crds/*.yaml")
	if err != nil || len(crds) == 0 {
		t.Fatalf("CRDs: %v %v", crds, err)
	}
	for _, crd := range crds {
		w.cluster.install(t, strings.TrimSuffix(filepath.Base(crd), ".yaml"))
	}
	k := startKubelet(t, w.cluster, map[string]program{"vpsie-autoscaler": {os.Getenv("E2E_VPSIE_AUTOSCALER"), none, none}})
	w.began = time.Now()
	server, client := pair(t, dir)
	for _, given := range buildKustomization(t, "overlays/production") {
		w.cluster.must(t, "POST", where(given), given)
		if given["kind"] == "Namespace" {
			w.cluster.must(t, "POST", "/api/v1/namespaces/"+namespace+"/secrets", object{
				"metadata": object{"name": release + "-tls"}, "data": server,
			})
		}
	}
	w.cluster.patch(t, "/api/v1/namespaces/"+namespace+"/secrets/"+secret, object{
		"stringData": object{"token": "simulated-token", "url": w.vpsie.url + "/apps/v2"},
	})
	w.cluster.must(t, "POST", objects+"/nodegroups", nodeGroup("general", 4, small, large))
	await(t, "a replica leads", time.Minute, func() error {
		_, err := k.resolve(release, "8086")
		return err
	})
	w.startThroughTunnel(d, k, dir, client)
	w.deploy("web", 8, "800m", "500Mi")
	await(t, "a. nodes are created for the pods", 2*time.Minute, func() error { return w.checkRunning(8) })
	w.scale("web", 0)
	await(t, "b. the nodes are deleted after the pods", 2*time.Minute, func() error { return w.checkRunning(0) })
	w.vpsie.must(t, "PUT", "/capacity", map[string]any{"offer": small, "limit": 0})
	w.deploy("other", 2, "800m", "1500Mi")
	await(t, "c. VPSie has no capacity for the best size", 2*time.Minute, func() error {
		if err := w.checkRunning(2); err != nil {
			return err
		}
		if bought := w.offers(); len(bought) != 1 || bought[large] == 0 {
			return fmt.Errorf("%v", bought)
		}
		return nil
	})
	w.cluster.checkRights(t, d)
	pods, err := w.cluster.client.CoreV1().Pods(namespace).List(background, meta.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	up := 0
	for _, pod := range pods.Items {
		if slices.ContainsFunc(pod.Status.Conditions, func(c core.PodCondition) bool {
			return c.Type == core.PodReady && c.Status == core.ConditionTrue
		}) {
			up++
		}
	}
	if up != 3 {
		t.Errorf("%d replicas are ready, want 3", up)
	}
	line := fmt.Sprintf("%-26s production overlay, a to c in %.0f s", d.name, time.Since(w.began).Seconds())
	summary.Lock()
	defer summary.Unlock()
	summary.lines = append(summary.lines, line)
}

// buildKustomization returns the objects of a kustomization.
func buildKustomization(t *testing.T, path string) []object {
	t.Helper()
	made := exec.Command(tool("kustomize"), "build", "../../deployments/"+path)
	text, err := made.Output()
	if err != nil {
		var failed *exec.ExitError
		if errors.As(err, &failed) {
			t.Fatalf("%s: %s", path, failed.Stderr)
		}
		t.Fatalf("%s: %v", path, err)
	}
	file := filepath.Join(t.TempDir(), "built.yaml")
	write(t, file, text)
	return documents(t, file)
}

// createDryRun creates an object as a dry run.
func (c *controlPlane) createDryRun(given object) error {
	content, err := json.Marshal(given)
	if err != nil {
		return err
	}
	request := c.client.Discovery().RESTClient().Post().AbsPath(where(given))
	request = request.Param("dryRun", "All").Param("fieldValidation", "Strict").SetHeader("Content-Type", "application/json")
	return request.Body(content).Do(background).Error()
}

// where returns the path for the creation of an object.
func where(given object) string {
	version, kind := given["apiVersion"].(string), strings.ToLower(given["kind"].(string))
	path := "/apis/" + version
	if version == "v1" {
		path = "/api/v1"
	}
	if in, namespaced := given["metadata"].(object)["namespace"]; namespaced {
		path += "/namespaces/" + in.(string)
	}
	return path + "/" + kind + "s"
}

// pair returns the files of the Secrets of server and client, signed by a new certificate authority.
func pair(t *testing.T, dir string) (map[string][]byte, map[string][]byte) {
	t.Helper()
	name := release + "." + namespace + ".svc"
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "installation"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	signer := key(t)
	at := func(file string) string { return filepath.Join(dir, "installation-"+file) }
	certificate(t, at("ca.crt"), authority, authority, signer, signer)
	leaf := func(serial int64, usage x509.ExtKeyUsage) map[string][]byte {
		own := key(t)
		of := &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
			NotBefore: authority.NotBefore, NotAfter: authority.NotAfter,
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
		}
		certificate(t, at("tls.crt"), of, authority, own, signer)
		private(t, at("tls.key"), own)
		files := map[string][]byte{}
		for _, file := range []string{"tls.crt", "tls.key", "ca.crt"} {
			content, err := os.ReadFile(at(file))
			if err != nil {
				t.Fatal(err)
			}
			files[file] = content
		}
		return files
	}
	return leaf(2, x509.ExtKeyUsageServerAuth), leaf(3, x509.ExtKeyUsageClientAuth)
}

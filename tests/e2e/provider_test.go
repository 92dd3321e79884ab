package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// provider is what is under test, in a process of its own.
type provider struct {
	address   string
	arguments []string
	dir       string
	process   *process
}

func startProvider(t testing.TB, dir, kubeconfig string, vpsie *simulator, nodeGroups string) *provider {
	t.Helper()
	manifests := filepath.Join(dir, "nodegroups.yaml")
	write(t, manifests, []byte(nodeGroups))
	p := &provider{address: fmt.Sprintf("127.0.0.1:%d", port(t)), dir: dir}
	p.arguments = []string{
		"serve", "--grpc-listen=" + p.address, fmt.Sprintf("--http-listen=127.0.0.1:%d", port(t)),
		"--node-groups=" + manifests, "--data-file=" + filepath.Join(dir, "records.redb"), "--kubeconfig=" + kubeconfig,
		"--api-url=" + vpsie.url + "/apps/v2", "--api-token=simulated-token", "--api-rate-limit=6000",
		"--observe-interval=1s",
	}
	p.start(t)
	return p
}

func (p *provider) start(t testing.TB) {
	t.Helper()
	p.process = start(t, p.dir, "provider", os.Getenv("E2E_VPSIE_AUTOSCALER"), p.arguments...)
	await(t, "the provider answers", 20*time.Second, func() error {
		if err := p.process.ended(); err != nil {
			return fatal{err}
		}
		_, err := pools(t, p.address)
		return err
	})
}

// nodeGroup is the manifest of a NodeGroup; offers are in the order of preference.
func nodeGroup(name string, most int, offers string) string {
	return fmt.Sprintf(`---
apiVersion: autoscaler.vpsie.com/v1alpha1
kind: NodeGroup
metadata: {name: %s}
spec:
  minNodes: 0
  maxNodes: %d
  datacenterID: ams1
  resourceIdentifier: 5a1c94be-6f3d-11ef-9b52-bc24115e1e5f
  offeringIDs: [%s]
`, name, most, offers)
}

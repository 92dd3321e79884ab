package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// newest is the newest release that the model supports.
const newest = "1.36"

// driver is a Cluster Autoscaler: a real one, or the model of one.
type driver struct {
	name   string // name in the summary
	minor  string
	binary string // path of a real one; empty for the model
}

func (d driver) real() bool { return d.binary != "" }

// drivers returns the binaries in CLUSTER_AUTOSCALER, or else the model of two releases.
func drivers(t testing.TB) []driver {
	t.Helper()
	var found []driver
	for entry := range strings.SplitSeq(os.Getenv("CLUSTER_AUTOSCALER"), ":") {
		if entry == "" {
			continue
		}
		path, minor := splitMinor(entry)
		if minor != "" {
			found = append(found, driver{"cluster-autoscaler " + minor, minor, path})
			continue
		}
		version := versionOf(t, path)
		minor = strings.Join(strings.SplitN(version, ".", 3)[:2], ".")
		found = append(found, driver{"cluster-autoscaler " + version, minor, path})
	}
	if len(found) == 0 {
		for _, minor := range []string{"1.33", newest} {
			found = append(found, driver{"model of " + minor, minor, ""})
		}
	}
	return found
}

var named = regexp.MustCompile(`^(.+)@([0-9]+\.[0-9]+)$`)

// splitMinor returns the path and the release of path@1.37. A binary that is built from source reports the
// version dev.
func splitMinor(entry string) (path, minor string) {
	if match := named.FindStringSubmatch(entry); match != nil {
		return match[1], match[2]
	}
	return entry, ""
}

func TestTheReleaseOfABinaryCanBeNamed(t *testing.T) {
	for entry, want := range map[string][2]string{
		"/bin/ca@1.37":   {"/bin/ca", "1.37"},
		"/bin/ca":        {"/bin/ca", ""},
		"/a@b/ca":        {"/a@b/ca", ""},
		"/ca-1.36@1.37":  {"/ca-1.36", "1.37"},
		"/bin/ca@latest": {"/bin/ca@latest", ""},
	} {
		if path, minor := splitMinor(entry); [2]string{path, minor} != want {
			t.Errorf("%s is %q and %q, not %q", entry, path, minor, want)
		}
	}
}

var says = regexp.MustCompile(`Cluster Autoscaler ([0-9]+\.[0-9]+\.[0-9]+[^\s"]*)`)

// versionOf starts a binary without a cluster: it logs its version before it fails.
func versionOf(t testing.TB, path string) string {
	t.Helper()
	dir := t.TempDir()
	p := start(t, dir, "version", path, "--kubeconfig="+filepath.Join(dir, "none"), "--leader-elect=false",
		"--cloud-provider=externalgrpc", fmt.Sprintf("--address=127.0.0.1:%d", port(t)), "--v=1")
	defer p.stop()
	var version string
	await(t, path+" logs its version", 20*time.Second, func() error {
		match := says.FindStringSubmatch(tail(p.log, 1<<20))
		if match == nil {
			return fmt.Errorf("it does not report its release; append the release to its path, as in %s@%s. Its log: %s", path, newest,
				tail(p.log, 1000))
		}
		version = match[1]
		return nil
	})
	return version
}

// hurry has short times for real binaries and for the model. `--unremovable-node-recheck-timeout` is the time
// until a node is checked again whose pods fitted nowhere else.
var hurry = []string{
	"--scan-interval=1s", "--max-node-provision-time=5m",
	"--scale-down-unneeded-time=3s", "--scale-down-unready-time=30s",
	"--scale-down-delay-after-add=2s", "--scale-down-delay-after-delete=1s", "--scale-down-delay-after-failure=1s",
	"--unremovable-node-recheck-timeout=1s",
}

// start starts it. `flags` override the usual ones.
func (d driver) start(t testing.TB, dir, kubeconfig, provider string, flags []string) *process {
	t.Helper()
	hurry := slices.DeleteFunc(slices.Clone(hurry), func(usual string) bool {
		name, _, _ := strings.Cut(usual, "=")
		return slices.ContainsFunc(flags, func(flag string) bool { return strings.HasPrefix(flag, name+"=") })
	})
	hurry = append(hurry, flags...)
	if !d.real() {
		arguments := append([]string{"--minor=" + d.minor, "--provider=http://" + provider, "--kubeconfig=" + kubeconfig,
			"--node-delete-delay-after-taint=1s"}, hurry...)
		return start(t, dir, "cluster-autoscaler", os.Getenv("E2E_CA_MODEL"), arguments...)
	}
	config := filepath.Join(dir, "cloud-config.yaml")
	write(t, config, fmt.Appendf(nil, "address: %q\ngrpc_timeout: 5s\n", provider))
	arguments := append([]string{
		"--cloud-provider=externalgrpc", "--cloud-config=" + config, "--kubeconfig=" + kubeconfig,
		"--leader-elect=false", fmt.Sprintf("--address=127.0.0.1:%d", port(t)), "--expander=least-waste",
		"--node-delete-delay-after-taint=1s", "--v=4",
	}, hurry...)
	return start(t, dir, "cluster-autoscaler", d.binary, arguments...)
}

package install

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
)

// settings returns the flags of `serve` and their environment variables, from docs/reference/settings.md,
// which is generated from the program's definitions.
func settings(t testing.TB) (flags, variables map[string]bool) {
	t.Helper()
	text := read(t, root+"/docs/reference/settings.md")
	_, text, found := strings.Cut(text, "\n## `vpsie-autoscaler serve`\n")
	text, _, ends := strings.Cut(text, "\n## ")
	if !found || !ends {
		t.Fatal("docs/reference/settings.md has no section of `serve`")
	}
	flags, variables = map[string]bool{}, map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(--[a-z-]+)[^`]*` \\| `([A-Z_]+)` \\|").FindAllStringSubmatch(text, -1) {
		flags[row[1]] = true
		variables[row[2]] = true
	}
	return flags, variables
}

// arguments returns the flags of a container with their values. Duplicates are errors.
func arguments(t testing.TB, given []string) map[string]string {
	t.Helper()
	flags := map[string]string{}
	for _, argument := range given {
		name, value, has := strings.Cut(argument, "=")
		if _, twice := flags[name]; twice || !has || !strings.HasPrefix(name, "--") {
			t.Errorf("%s must be --flag=value and unique", argument)
		}
		flags[name] = value
	}
	return flags
}

func TestEveryFlagAndVariableOfTheProviderExists(t *testing.T) {
	flags, variables := settings(t)
	eachCase(t, func(t *testing.T, made rendered) {
		for name, pod := range made.pods(t) {
			if pod.Labels["app.kubernetes.io/component"] != "provider" {
				continue
			}
			container := pod.Spec.Containers[0]
			if container.Args[0] != "serve" {
				t.Errorf("%s runs %s", name, container.Args[0])
			}
			for flag := range arguments(t, container.Args[1:]) {
				if !flags[flag] {
					t.Errorf("%s: unknown flag %s", name, flag)
				}
			}
			for _, variable := range container.Env {
				if strings.HasPrefix(variable.Name, "VPSIE_") && !variables[variable.Name] {
					t.Errorf("%s: unknown variable %s", name, variable.Name)
				}
			}
		}
	})
}

// The grace period of the pod must be longer than that of the program.
func TestPodOutlivesTheShutdownGrace(t *testing.T) {
	for _, seconds := range []int64{25, 60} {
		pod := render(t, fromYAML(t, fmt.Sprintf("provider: {shutdownGrace: %ds}", seconds))).pods(t)[provider]
		grace := arguments(t, pod.Spec.Containers[0].Args[1:])["--shutdown-grace"]
		if grace != fmt.Sprintf("%ds", seconds) || *pod.Spec.TerminationGracePeriodSeconds <= seconds {
			t.Errorf("the program stops within %s, the pod is killed after %d s", grace, *pod.Spec.TerminationGracePeriodSeconds)
		}
	}
}

// The program in VPSIE_AUTOSCALER validates the flags of the chart.
func TestProgramAcceptsTheFlagsOfTheChart(t *testing.T) {
	program := os.Getenv("VPSIE_AUTOSCALER")
	if program == "" {
		t.Skip("VPSIE_AUTOSCALER names no program")
	}
	own := `provider: {extraArgs: {grpc-listen: "0.0.0.0:8086", http-listen: "[::1]:9090", log-level: [debug, warn]}}`
	for _, given := range []string{"", everything, own, "provider: {listenAddress: 0.0.0.0}", "provider: {listenAddress: fd00::7}"} {
		made := render(t, fromYAML(t, given))
		// Writes the files of the pod to a local folder.
		pod := made.pods(t)[provider]
		files := t.TempDir()
		for _, volume := range pod.Spec.Volumes {
			for _, mount := range pod.Spec.Containers[0].VolumeMounts {
				if mount.Name != volume.Name {
					continue
				}
				data := map[string][]byte{}
				if volume.Secret != nil {
					data = secret(t, made, "server")
				} else if volume.ConfigMap != nil {
					for name, text := range made.find("ConfigMap", volume.ConfigMap.Name).Object["data"].(map[string]any) {
						data[name] = []byte(text.(string))
					}
				}
				for name, content := range data {
					path := filepath.Join(files, mount.MountPath, name)
					if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(path, content, 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		accepts := func(arguments []string) error {
			here := []string{"validate"}
			for _, argument := range arguments[1:] {
				here = append(here, strings.Replace(argument, "=/etc/", "="+files+"/etc/", 1))
			}
			if output, err := exec.Command(program, here...).CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, output)
			}
			return nil
		}
		if err := accepts(pod.Spec.Containers[0].Args); err != nil {
			t.Error(err)
		}
		if accepts(append(slices.Clone(pod.Spec.Containers[0].Args), "--no-such-flag=1")) == nil {
			t.Error("the program accepts invalid flags")
		}
	}
}

// In clusters with IPv6 only, with IPv4 only, and with both.
func TestProviderListensInEachIPFamily(t *testing.T) {
	for given, at := range map[string]string{
		"":                                   "[::]",
		"provider: {listenAddress: 0.0.0.0}": "0.0.0.0",
		"provider: {listenAddress: fd00::7}": "[fd00::7]",
	} {
		flags := arguments(t, render(t, fromYAML(t, given)).pods(t)[provider].Spec.Containers[0].Args[1:])
		for flag, port := range map[string]string{"--grpc-listen": "8086", "--expander-listen": "8087", "--http-listen": "8080"} {
			if flags[flag] != at+":"+port {
				t.Errorf("%s: %s is %s", given, flag, flags[flag])
			}
		}
	}
	services := func(made rendered) (found []core.ServiceSpec) {
		for _, object := range made.objects {
			if object.GetKind() == "Service" {
				found = append(found, as[core.Service](t, object).Spec)
			}
		}
		return found
	}
	eachInstall(t, func(t *testing.T, made rendered) {
		for _, spec := range services(made) {
			if spec.IPFamilyPolicy == nil || *spec.IPFamilyPolicy != core.IPFamilyPolicyPreferDualStack || spec.IPFamilies != nil {
				t.Errorf("%v: family policy %v, families %v", spec.Selector, spec.IPFamilyPolicy, spec.IPFamilies)
			}
		}
	})
	for _, spec := range services(render(t, fromYAML(t, "service: {ipFamilyPolicy: '', ipFamilies: [IPv6]}"))) {
		if spec.IPFamilyPolicy != nil || !slices.Equal(spec.IPFamilies, []core.IPFamily{core.IPv6Protocol}) {
			t.Errorf("%v: family policy %v, families %v", spec.Selector, spec.IPFamilyPolicy, spec.IPFamilies)
		}
	}
}

// First and last minor release with each flag of Cluster Autoscaler that the chart uses. 99: not removed so
// far.
var releases = map[string][2]int{
	"--cloud-provider": {26, 99}, "--cloud-config": {26, 99}, "--namespace": {26, 99},
	"--expander": {26, 99}, "--grpc-expander-url": {26, 99}, "--grpc-expander-cert": {26, 99},
	"--balance-similar-node-groups": {26, 99}, "--balancing-ignore-label": {26, 99},
	"--max-node-provision-time": {26, 99}, "--node-info-cache-expire-time": {26, 99}, "--scan-interval": {26, 99},
	"--v": {26, 99}, "--ignore-taint": {26, 28}, "--startup-taint": {29, 99}, "--status-taint": {29, 99},
}

func TestClusterAutoscalerKnowsItsFlags(t *testing.T) {
	for minor := 26; minor <= 37; minor++ {
		given := fmt.Sprintf("clusterAutoscaler: {version: 1.%d.0, startupTaints: [a, b]", minor)
		if minor >= 29 {
			given += ", statusTaints: [c]"
		}
		made := render(t, fromYAML(t, given+"}"))
		container := made.pods(t)[autoscale].Spec.Containers[0]
		if !strings.HasSuffix(container.Image, fmt.Sprintf(":v1.%d.0", minor)) {
			t.Errorf("1.%d: the image is %s", minor, container.Image)
		}
		seen := map[string]bool{}
		for _, argument := range container.Args {
			flag, _, _ := strings.Cut(argument, "=")
			known, there := releases[flag]
			if !there || minor < known[0] || minor > known[1] {
				t.Errorf("1.%d does not know %s", minor, flag)
			}
			seen[flag] = true
		}
		for flag, known := range releases {
			if minor >= known[0] && minor <= known[1] && !seen[flag] {
				t.Errorf("1.%d: %s is missing", minor, flag)
			}
		}
		config := made.find("ConfigMap", autoscale).Object["data"].(map[string]any)["cloud-config.yaml"].(string)
		if strings.Contains(config, "grpc_timeout") != (minor >= 29) {
			t.Errorf("1.%d: cloud-config is %s", minor, config)
		}
	}
}

// Cluster Autoscaler calls the ports that the provider listens on.
func TestClusterAutoscalerCallsThePortsOfTheProvider(t *testing.T) {
	made := render(t, nil)
	config := fromYAML(t, made.find("ConfigMap", autoscale).Object["data"].(map[string]any)["cloud-config.yaml"].(string))
	flags := map[string]string{}
	for _, argument := range made.pods(t)[autoscale].Spec.Containers[0].Args {
		name, value, _ := strings.Cut(argument, "=")
		flags[name] = value
	}
	serves := arguments(t, made.pods(t)[provider].Spec.Containers[0].Args[1:])
	for asked, listens := range map[string]string{
		config["address"].(string):   serves["--grpc-listen"],
		flags["--grpc-expander-url"]: serves["--expander-listen"],
	} {
		name, port, _ := strings.Cut(asked, ":")
		if name != host || !strings.HasSuffix(listens, ":"+port) {
			t.Errorf("Cluster Autoscaler calls %s, the provider listens on %s", asked, listens)
		}
	}
	if flags["--grpc-expander-cert"] != config["cacert"] {
		t.Errorf("the expander is checked against %s, the provider against %s", flags["--grpc-expander-cert"], config["cacert"])
	}
}

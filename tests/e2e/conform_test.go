package e2e

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// operators are the kinds of CRDs of other projects, which this API server does not have. tests/install
// parses them strictly into the types of those projects. Each has group and version, so that only this kind
// is skipped.
var operators = []string{
	"cert-manager.io/v1/Certificate", "cert-manager.io/v1/Issuer", "monitoring.coreos.com/v1/PodMonitor",
	"monitoring.coreos.com/v1/PrometheusRule", "monitoring.coreos.com/v1/ServiceMonitor",
}

// everything is the set of values that enables all parts of the chart.
var everything = []string{
	"--set=networkPolicy.enabled=true", "--set=tls.mode=certManager", "--set=prometheus.serviceMonitor.enabled=true",
	"--set=prometheus.rule.enabled=true", "--set=grafana.dashboards.enabled=true", "--set=priorityClass.create=true",
	`--set-json=provider.priceFile.overrides=[{"offer":"x","discountPercent":10}]`,
	`--set-json=nodeGroups=[{"name":"general","minNodes":0,"maxNodes":3,"datacenterID":"ams1","offeringIDs":["x"],"resourceIdentifier":"y","costLimit":{"monthly":"300"}}]`,
}

// kinds matches the kinds of objects in a template, at the start of a line.
var kinds = regexp.MustCompile(`(?m)^kind: (\w+)`)

// TestConform validates all installed objects strictly with kubeconform, against the schemas of the API
// server and the CRDs.
func TestConform(t *testing.T) {
	t.Parallel()
	cluster := startControlPlane(t, scratch(t), "")
	for _, crd := range []string{"nodegroups", "vpsienodes", "autoscalerconfigs"} {
		cluster.install(t, crd)
	}
	schemas := cluster.schemas(t)
	given := map[string][]object{
		"chart": renderChart(t, nil), "chart with everything": renderChart(t, everything),
		"chart with a PodMonitor":          renderChart(t, []string{"--set=prometheus.podMonitor.enabled=true"}),
		"chart for a self-managed cluster": renderChart(t, []string{"--set=provider.selfManaged.enabled=true"}),
	}
	for _, path := range []string{"base", "overlays/dev", "overlays/staging", "overlays/production"} {
		given[path] = buildKustomization(t, path)
	}
	samples, err := filepath.Glob("../../deployments/samples/*.yaml")
	if err != nil || len(samples) == 0 {
		t.Fatalf("samples: %v %v", samples, err)
	}
	for _, sample := range samples {
		given[sample] = documents(t, sample)
	}
	looked := map[string]bool{}
	for name, objects := range given {
		if output, err := runKubeconform(t, schemas, objects); err != nil {
			t.Errorf("%s: %s", name, output)
		}
		for _, one := range objects {
			looked[one["kind"].(string)] = true
		}
	}
	err = filepath.WalkDir(filepath.Join(chart, "templates"), func(file string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(file)
		for _, kind := range kinds.FindAllStringSubmatch(string(content), -1) {
			if !looked[kind[1]] {
				t.Errorf("%s: no case of this test renders a %s", file, kind[1])
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}

	// Each NodeGroup is valid except for one error, which must be the reason of the refusal.
	group := func(spec object) object { return patched(given[samples[0]][0], object{"spec": spec}) }
	of := func(version, kind string, more object) object {
		return patched(object{"apiVersion": version, "kind": kind, "metadata": object{"name": "x"}}, more)
	}
	const unknown = "could not find schema"
	for _, wrong := range []struct {
		what, message string
		object        object
	}{
		{"an unknown field", "'selektor' not allowed", of("v1", "Service", object{"spec": object{"selektor": object{}}})},
		{"a number in place of a string", "got number, want string", of("v1", "ServiceAccount", object{"metadata": object{"name": 1}})},
		{"neither a number nor a string", "/spec/minAvailable", of("policy/v1", "PodDisruptionBudget", object{"spec": object{"minAvailable": true}})},
		{"an unknown kind", unknown, of("apps/v1", "Deploiment", nil)},
		{"a removed version", unknown, of("policy/v1beta1", "PodDisruptionBudget", nil)},
		{"an unknown group", unknown, of("apps.example.com/v1", "Deployment", nil)},
		{"another version of a skipped kind", unknown, of("monitoring.coreos.com/v2", "ServiceMonitor", nil)},
		{"an unknown field of a CRD", "'maxNodez' not allowed", group(object{"maxNodez": 3})},
		{"a wrong type in a CRD", "got string, want integer", group(object{"minNodes": "none"})},
		{"a value out of range in a CRD", "minimum: got -1, want 0", group(object{"minNodes": -1})},
		{"an unknown field in a nullable object", "'hurly' not allowed", group(object{"costLimit": object{"hurly": "1"}})},
		{"a wrong type in a nullable object", "got number, want string", group(object{"costLimit": object{"hourly": 1}})},
	} {
		output, err := runKubeconform(t, schemas, []object{wrong.object})
		if err == nil || !strings.Contains(output, wrong.message) {
			t.Errorf("%s is not refused with its message: %v %s", wrong.what, err, output)
		}
	}
}

func runKubeconform(t *testing.T, schemas string, objects []object) (string, error) {
	t.Helper()
	var content []byte
	for _, given := range objects {
		text, err := json.Marshal(given)
		if err != nil {
			t.Fatal(err)
		}
		content = append(append(content, "---\n"...), append(text, '\n')...)
	}
	file := filepath.Join(t.TempDir(), "objects.yaml")
	write(t, file, content)
	output, err := exec.Command(tool("kubeconform"), "-strict", "-skip="+strings.Join(operators, ","),
		"-schema-location="+schemas+"/{{.Group}}-{{.ResourceAPIVersion}}-{{.ResourceKind}}.json", file).CombinedOutput()
	return string(output), err
}

// renderChart returns the objects of the chart.
func renderChart(t *testing.T, values []string) []object {
	t.Helper()
	arguments := append([]string{"template", release, chart, "--include-crds", "--kube-version=" + newest + ".0", "--namespace=" + namespace}, values...)
	made := exec.Command(tool("helm"), arguments...)
	made.Env = append(os.Environ(), "HELM_CACHE_HOME="+t.TempDir(), "HELM_CONFIG_HOME="+t.TempDir())
	text, err := made.CombinedOutput()
	if err != nil {
		t.Fatalf("helm template: %v %s", err, text)
	}
	file := filepath.Join(t.TempDir(), "rendered.yaml")
	write(t, file, text)
	return documents(t, file)
}

// schemas writes the schema of each kind of the API server to files for kubeconform, and returns their
// folder. They are of OpenAPI v3: in v2, nullable values have neither type nor fields, so that any value
// would pass.
func (c *controlPlane) schemas(t *testing.T) string {
	t.Helper()
	// The API server publishes them after the CRDs are established.
	await(t, "schemas of the CRDs", time.Minute, func() error {
		content, err := c.call("GET", "/openapi/v3/apis/autoscaler.vpsie.com/v1alpha1", nil)
		for _, kind := range []string{"NodeGroup", "VPSieNode", "AutoscalerConfig"} {
			if err == nil && !strings.Contains(string(content), ".v1alpha1."+kind+`"`) {
				err = fmt.Errorf("not yet: %s", kind)
			}
		}
		return err
	})
	dir := t.TempDir()
	save := func(file string, content object) {
		text, err := json.Marshal(content)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, file), text)
	}
	for path := range c.must(t, "GET", "/openapi/v3", nil)["paths"].(object) {
		components, _ := c.must(t, "GET", "/openapi/v3/"+path, nil)["components"].(object)
		definitions, _ := components["schemas"].(object)
		forbidUnknownFields(definitions)
		all := strings.ReplaceAll(path, "/", "_") + ".json"
		save(all, object{"components": object{"schemas": definitions}})
		for name, definition := range definitions {
			of, _ := definition.(object)["x-kubernetes-group-version-kind"].([]any)
			for _, one := range of {
				kind := one.(object)
				version := kind["version"].(string)
				// kubeconform uses the version in place of an empty group.
				file := cmp.Or(kind["group"].(string), version) + "-" + version + "-" + strings.ToLower(kind["kind"].(string))
				save(file+".json", object{"$ref": all + "#/components/schemas/" + name})
			}
		}
	}
	return dir
}

// forbidUnknownFields forbids fields that a schema does not have.
func forbidUnknownFields(schema any) {
	switch schema := schema.(type) {
	case object:
		_, named := schema["properties"].(object)
		if _, more := schema["additionalProperties"]; named && !more && schema["x-kubernetes-preserve-unknown-fields"] != true {
			schema["additionalProperties"] = false
		}
		for _, part := range slices.Collect(maps.Values(schema)) {
			forbidUnknownFields(part)
		}
	case []any:
		for _, part := range schema {
			forbidUnknownFields(part)
		}
	}
}

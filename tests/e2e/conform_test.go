package e2e

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// operators are the kinds of other people's CRDs, which this API server does not have. tests/install reads them strictly
// into the types of those operators.
var operators = []string{"Certificate", "Issuer", "PodMonitor", "PrometheusRule", "ServiceMonitor"}

// everything is a chart with all of its parts.
var everything = []string{
	"--set=networkPolicy.enabled=true", "--set=tls.mode=certManager", "--set=prometheus.serviceMonitor.enabled=true",
	"--set=prometheus.rule.enabled=true", "--set=grafana.dashboards.enabled=true",
	`--set-json=nodeGroups=[{"name":"general","minNodes":0,"maxNodes":3,"datacenterID":"ams1","offeringIDs":["x"],"resourceIdentifier":"y"}]`,
}

// TestConform has kubeconform look strictly at all that is installed, by the schemas of the API server with the CRDs.
func TestConform(t *testing.T) {
	t.Parallel()
	cluster := startControlPlane(t, scratch(t), "")
	for _, crd := range []string{"nodegroups", "vpsienodes", "autoscalerconfigs"} {
		cluster.install(t, crd)
	}
	schemas := cluster.schemas(t)
	for _, path := range []string{"base", "overlays/dev", "overlays/staging", "overlays/production"} {
		objects := built(t, path)
		if said, err := conforms(t, schemas, objects); err != nil {
			t.Errorf("%s: %s", path, said)
		}
	}
	for name, values := range map[string][]string{"chart": nil, "chart with everything": everything} {
		if said, err := conforms(t, schemas, rendered(t, values)); err != nil {
			t.Errorf("%s: %s", name, said)
		}
	}
	group := func(spec object) object {
		return object{"apiVersion": "autoscaler.vpsie.com/v1alpha1", "kind": "NodeGroup", "metadata": object{"name": "x"}, "spec": spec}
	}
	for name, wrong := range map[string]object{
		"a field that there is not": {"apiVersion": "v1", "kind": "Service", "metadata": object{"name": "x"}, "spec": object{"selektor": object{}}},
		"a number for a text":       {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": object{"name": 1}},
		"a kind that there is not":  {"apiVersion": "apps/v1", "kind": "Deploiment", "metadata": object{"name": "x"}},
		"a version that is gone":    {"apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget", "metadata": object{"name": "x"}},
		"a field of ours":           group(object{"minNodes": 0, "maxNodez": 3}),
		"a value of ours":           group(object{"minNodes": "none", "maxNodes": 3}),
	} {
		if said, err := conforms(t, schemas, []object{wrong}); err == nil {
			t.Errorf("%s is not refused: %s", name, said)
		}
	}
}

func conforms(t *testing.T, schemas string, objects []object) (string, error) {
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
	said, err := exec.Command(tool("kubeconform"), "-strict", "-skip="+strings.Join(operators, ","),
		"-schema-location="+schemas+"/{{.ResourceKind}}{{.KindSuffix}}.json", file).CombinedOutput()
	return string(said), err
}

// rendered are the chart's objects.
func rendered(t *testing.T, values []string) []object {
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

// schemas writes the schema of each kind that the API server has, as kubeconform looks for them, and says where.
func (c *controlPlane) schemas(t *testing.T) string {
	t.Helper()
	content, err := c.client.Discovery().RESTClient().Get().AbsPath("/openapi/v2").Do(background).Raw()
	if err != nil {
		t.Fatal(err)
	}
	var document struct{ Definitions map[string]map[string]any }
	if err := json.Unmarshal(content, &document); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, definition := range document.Definitions {
		strict(definition)
		if name == "io.k8s.apimachinery.pkg.api.resource.Quantity" {
			definition["type"] = []string{"string", "number"}
		}
	}
	for name, definition := range document.Definitions {
		kinds, _ := definition["x-kubernetes-group-version-kind"].([]any)
		for _, kind := range kinds {
			needed := map[string]any{}
			collect(name, document.Definitions, needed)
			schema, err := json.Marshal(object{"$ref": "#/definitions/" + name, "definitions": needed})
			if err != nil {
				t.Fatal(err)
			}
			of := kind.(map[string]any)
			group, _, _ := strings.Cut(of["group"].(string), ".")
			parts := slices.DeleteFunc([]string{of["kind"].(string), group, of["version"].(string)}, func(part string) bool { return part == "" })
			write(t, filepath.Join(dir, strings.ToLower(strings.Join(parts, "-"))+".json"), schema)
		}
	}
	return dir
}

// strict lets no field pass that a schema does not name, and takes numbers where both they and texts are meant.
func strict(schema any) {
	switch schema := schema.(type) {
	case map[string]any:
		if schema["format"] == "int-or-string" {
			schema["type"] = []string{"integer", "string"}
		}
		_, named := schema["properties"].(map[string]any)
		if _, more := schema["additionalProperties"]; named && !more && schema["x-kubernetes-preserve-unknown-fields"] != true {
			schema["additionalProperties"] = false
		}
		for _, part := range slices.Collect(maps.Values(schema)) {
			strict(part)
		}
	case []any:
		for _, part := range schema {
			strict(part)
		}
	}
}

// collect adds a definition and all that it refers to.
func collect(name string, from map[string]map[string]any, to map[string]any) {
	if _, there := to[name]; there {
		return
	}
	to[name] = from[name]
	var look func(any)
	look = func(part any) {
		switch part := part.(type) {
		case map[string]any:
			if reference, is := part["$ref"].(string); is {
				collect(strings.TrimPrefix(reference, "#/definitions/"), from, to)
			}
			for _, inner := range part {
				look(inner)
			}
		case []any:
			for _, inner := range part {
				look(inner)
			}
		}
	}
	look(from[name])
}

package install

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = os.Getenv("UPDATE") != ""

// A chart cannot use files outside its folder, and links are not packaged, so it has copies.
func TestFilesOfTheChartMatchTheirSources(t *testing.T) {
	for folder, source := range map[string]string{
		"crds":             "deployments/crds/*.yaml",
		"files":            "deployments/monitoring/alerts.yaml",
		"files/dashboards": "deployments/monitoring/dashboards/*.json",
	} {
		sources, err := filepath.Glob(filepath.Join(root, source))
		if err != nil {
			t.Fatal(err)
		}
		wanted := map[string]bool{}
		for _, path := range sources {
			copy := filepath.Join(chartPath, folder, filepath.Base(path))
			wanted[copy] = true
			content := []byte(read(t, path))
			if update {
				if err := os.MkdirAll(filepath.Dir(copy), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(copy, content, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if there, err := os.ReadFile(copy); err != nil || !bytes.Equal(there, content) {
				t.Errorf("%s differs from %s: UPDATE=1 tests/install/run", copy, path)
			}
		}
		copies, err := filepath.Glob(filepath.Join(chartPath, folder, "*.*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, copy := range copies {
			if !wanted[copy] {
				t.Errorf("%s has no source", copy)
			}
		}
	}
}

// Alerts and dashboards contain templates of Prometheus and Grafana, which Helm must not expand.
func TestAlertsAndDashboardsAreInstalledUnchanged(t *testing.T) {
	loaded := loadChart(t)
	made, err := renderChart(t, loaded, fromYAML(t, everything), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range loaded.Files {
		name := filepath.Base(file.Name)
		if file.Name == "files/alerts.yaml" && !equal(made.find("PrometheusRule", provider).Object["spec"], fromYAML(t, string(file.Data))) {
			t.Errorf("the PrometheusRule differs from %s", file.Name)
		}
		if !strings.HasPrefix(file.Name, "files/dashboards/") {
			continue
		}
		dashboard := made.find("ConfigMap", provider+"-dashboard-"+strings.TrimSuffix(name, ".json"))
		if dashboard == nil || dashboard.Object["data"].(map[string]any)[name] != string(file.Data) {
			t.Errorf("no ConfigMap has the unchanged content of %s", file.Name)
		}
	}
}

func TestChartHasTheVersionOfTheProgram(t *testing.T) {
	version := regexp.MustCompile(`(?m)^version = "(.*)"$`).FindStringSubmatch(read(t, root+"/Cargo.toml"))[1]
	if metadata := loadChart(t).Metadata; metadata.AppVersion != version {
		t.Errorf("appVersion is %s, the program's version is %s", metadata.AppVersion, version)
	}
}

// The API server drops unknown fields of a NodeGroup, so a misspelt one would go unnoticed. The schema of the
// values has the fields of the CRD.
func TestSchemaOfNodeGroupsMatchesTheCRD(t *testing.T) {
	crd := fromYAML(t, read(t, root+"/deployments/crds/nodegroups.yaml"))
	version := crd["spec"].(map[string]any)["versions"].([]any)[0].(map[string]any)
	schema := version["schema"].(map[string]any)["openAPIV3Schema"].(map[string]any)
	spec := closed(schema["properties"].(map[string]any)["spec"].(map[string]any))
	properties := spec["properties"].(map[string]any)
	properties["name"] = map[string]any{"allOf": []any{map[string]any{"$ref": "#/definitions/name"}}, "minLength": 1, "maxLength": 54}

	var want strings.Builder
	want.WriteString("    \"nodeGroup\": {\n      \"type\": \"object\", \"additionalProperties\": false, \"required\": [\"name\"],\n      \"properties\": {")
	comma := ""
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		line, err := json.Marshal(properties[name])
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&want, "%s\n        %q: %s", comma, name, line)
		comma = ","
	}
	want.WriteString("\n      }\n    }")

	path := chartPath + "/values.schema.json"
	there := read(t, path)
	block := regexp.MustCompile(`(?s)    "nodeGroup": \{.*?\n    \}`)
	if block.FindString(there) == want.String() {
		return
	}
	if !update {
		t.Fatalf("%s differs from the CRD: UPDATE=1 tests/install/run", path)
	}
	if err := os.WriteFile(path, []byte(block.ReplaceAllLiteralString(there, want.String())), 0o644); err != nil {
		t.Fatal(err)
	}
}

// closed converts the schema of a CRD to JSON Schema without descriptions, which forbids undeclared fields.
// The API server checks required fields, because it sets defaults.
func closed(schema map[string]any) map[string]any {
	made := map[string]any{}
	for name, value := range schema {
		switch name {
		case "properties":
			properties := map[string]any{}
			for property, of := range value.(map[string]any) {
				properties[property] = closed(of.(map[string]any))
			}
			made[name] = properties
			made["additionalProperties"] = false
		case "items", "additionalProperties":
			made[name] = closed(value.(map[string]any))
		case "type", "enum", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "maxProperties":
			made[name] = value
		}
	}
	if schema["nullable"] == true {
		made["type"] = []any{schema["type"], "null"}
	}
	return made
}

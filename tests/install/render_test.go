// Package install renders the manifests that users install, and checks them without a cluster.
package install

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

const (
	root      = "../.."
	chartPath = root + "/deployments/helm/vpsie-autoscaler"
	release   = "scaling"
	namespace = "vpsie-system"
	provider  = release + "-vpsie-autoscaler"
	autoscale = provider + "-cluster-autoscaler"
)

type object = *unstructured.Unstructured

// rendered has the objects and the notes of an installation.
type rendered struct {
	objects []object
	notes   string
}

type values = map[string]any

// loadChart reads the chart again, so that renderings do not affect each other.
func loadChart(t testing.TB) *chart.Chart {
	t.Helper()
	loaded, err := loader.Load(chartPath)
	if err != nil {
		t.Fatal(err)
	}
	// Placeholders for generated files that do not exist.
	for name, content := range map[string]string{
		"files/alerts.yaml":              "groups: [{name: a, rules: [{alert: A, expr: up, annotations: {b: '{{ $value }}'}}]}]",
		"files/dashboards/overview.json": `{"legend": "{{instance}}"}`,
	} {
		if !slices.ContainsFunc(loaded.Files, func(file *chart.File) bool { return file.Name == name }) {
			loaded.Files = append(loaded.Files, &chart.File{Name: name, Data: []byte(content)})
		}
	}
	return loaded
}

// renderWith renders the chart with objects of a cluster, or without a cluster if it is nil.
func renderWith(t testing.TB, given values, cluster engine.ClientProvider) (rendered, error) {
	t.Helper()
	return renderChart(t, loadChart(t), given, cluster)
}

func renderChart(t testing.TB, loaded *chart.Chart, given values, cluster engine.ClientProvider) (rendered, error) {
	t.Helper()
	return renderIn(t, namespace, loaded, given, cluster)
}

// renderIn renders a chart for a release in a namespace.
func renderIn(
	t testing.TB, in string, loaded *chart.Chart, given values, cluster engine.ClientProvider,
) (rendered, error) {
	t.Helper()
	all, err := chartutil.ToRenderValues(loaded, given, chartutil.ReleaseOptions{
		Name: release, Namespace: in, Revision: 1, IsInstall: true,
	}, chartutil.DefaultCapabilities)
	if err != nil {
		return rendered{}, err
	}
	var files map[string]string
	if cluster == nil {
		files, err = engine.Render(loaded, all)
	} else {
		files, err = engine.RenderWithClientProvider(loaded, all, cluster)
	}
	if err != nil {
		return rendered{}, err
	}
	var made rendered
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, "NOTES.txt") {
			made.notes = files[name]
			continue
		}
		made.objects = append(made.objects, parse(t, name, files[name])...)
	}
	return made, nil
}

func render(t testing.TB, given values) rendered {
	t.Helper()
	made, err := renderWith(t, given, nil)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// parse reads the objects of a manifest. Duplicate keys are errors.
func parse(t testing.TB, name, text string) []object {
	t.Helper()
	var objects []object
	for _, document := range strings.Split("\n"+text, "\n---") {
		var content map[string]any
		if err := yaml.UnmarshalStrict([]byte(document), &content); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, document)
		}
		if len(content) > 0 {
			objects = append(objects, &unstructured.Unstructured{Object: content})
		}
	}
	return objects
}

func (r rendered) find(kind, name string) object {
	for _, object := range r.objects {
		if object.GetKind() == kind && object.GetName() == name {
			return object
		}
	}
	return nil
}

// get returns the object of this kind and name as its Go type.
func get[T any](t testing.TB, objects []object, kind, name string) *T {
	t.Helper()
	for _, object := range objects {
		if object.GetKind() == kind && object.GetName() == name {
			return as[T](t, object)
		}
	}
	t.Fatalf("%s %s does not exist", kind, name)
	return nil
}

// as converts an object to its Go type. Unknown fields are errors.
func as[T any](t testing.TB, object object) *T {
	t.Helper()
	typed := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(object.Object, typed, true); err != nil {
		t.Fatalf("%s %s: %v", object.GetKind(), object.GetName(), err)
	}
	return typed
}

// strict checks an object by the Go type of its kind.
func strict(object object) error {
	kind := object.GroupVersionKind()
	typed, err := scheme.Scheme.New(kind)
	if err != nil {
		return fmt.Errorf("%s has an unknown kind: %w", object.GetName(), err)
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(object.Object, typed, true); err != nil {
		return fmt.Errorf("%s %s: %w", kind.Kind, object.GetName(), err)
	}
	return nil
}

// merged overrides values by others, as with several -f.
func merged(under, over values) values {
	return chartutil.MergeTables(copied(over), copied(under))
}

func copied(of values) values {
	text, err := yaml.Marshal(of)
	if err != nil {
		panic(err)
	}
	var copy values
	if err := yaml.Unmarshal(text, &copy); err != nil {
		panic(err)
	}
	return copy
}

func fromYAML(t testing.TB, text string) values {
	t.Helper()
	var parsed values
	if err := yaml.UnmarshalStrict([]byte(text), &parsed); err != nil {
		t.Fatal(err)
	}
	return parsed
}

func read(t testing.TB, path string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.FromSlash(path))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// relative returns the path of the repository relative to a folder, for kustomize.
func relative(t testing.TB, from string) string {
	t.Helper()
	absolute, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	path, err := filepath.Rel(from, absolute)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

package install

import (
	"maps"
	"slices"
	"strings"
	"testing"

	prometheus "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// builds are the folders that users apply.
var builds = []string{"deployments/base", "deployments/overlays/dev", "deployments/overlays/staging", "deployments/overlays/production"}

// plain is the name of the objects of the kustomizations.
const plain = "vpsie-autoscaler"

func build(t testing.TB, path string) rendered {
	t.Helper()
	return buildFrom(t, filesys.MakeFsOnDisk(), root+"/"+path)
}

func buildFrom(t testing.TB, files filesys.FileSystem, path string) rendered {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(files, path)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	text, err := built.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	return rendered{objects: parse(t, path, string(text))}
}

// variables returns the environment variables of the container, including those of the ConfigMap.
func variables(t testing.TB, made rendered, container core.Container) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, from := range container.EnvFrom {
		maps.Copy(found, get[core.ConfigMap](t, made.objects, "ConfigMap", from.ConfigMapRef.Name).Data)
	}
	for _, variable := range container.Env {
		found[variable.Name] = variable.Value
	}
	return found
}

func TestOverlaysHaveTheirFigures(t *testing.T) {
	for _, want := range []struct {
		path, namespace         string
		replicas                int32
		requests, limits        string
		level, format           string
		observe, create, budget string
		spot, grace             string
	}{
		{"deployments/base", "vpsie-system", 2, "100m 128Mi", "500m 512Mi", "info", "json", "30s", "10m", "max 1", "", ""},
		{"deployments/overlays/dev", "vpsie-system-dev", 1, "50m 64Mi", "200m 256Mi", "debug", "text", "15s", "5m", "min 0", "false", ""},
		{"deployments/overlays/staging", "vpsie-system-staging", 2, "75m 96Mi", "300m 384Mi", "info", "json", "30s", "8m", "max 1", "true", "120s"},
		{"deployments/overlays/production", "vpsie-system", 3, "100m 128Mi", "500m 512Mi", "info", "json", "30s", "10m", "min 2", "true", "120s"},
	} {
		made := build(t, want.path)
		deployment := get[apps.Deployment](t, made.objects, "Deployment", plain)
		container := deployment.Spec.Template.Spec.Containers[0]
		amounts := func(of core.ResourceList) string { return of.Cpu().String() + " " + of.Memory().String() }
		set := variables(t, made, container)
		budget := get[policy.PodDisruptionBudget](t, made.objects, "PodDisruptionBudget", plain).Spec
		allowed := ""
		if budget.MaxUnavailable != nil {
			allowed += "max " + budget.MaxUnavailable.String()
		}
		if budget.MinAvailable != nil {
			allowed += "min " + budget.MinAvailable.String()
		}
		for what, pair := range map[string][2]any{
			"replicas": {*deployment.Spec.Replicas, want.replicas},
			"requests": {amounts(container.Resources.Requests), want.requests},
			"limits":   {amounts(container.Resources.Limits), want.limits},
			"level":    {set["VPSIE_AUTOSCALER_LOG_LEVEL"], want.level},
			"format":   {set["VPSIE_AUTOSCALER_LOG_FORMAT"], want.format},
			"observe":  {set["VPSIE_AUTOSCALER_OBSERVE_INTERVAL"], want.observe},
			"create":   {set["VPSIE_AUTOSCALER_CREATE_TIMEOUT"], want.create},
			"budget":   {allowed, want.budget},
			"spot":     {set["VPSIE_AUTOSCALER_SPOT_INSTANCES"], want.spot},
			"grace":    {set["VPSIE_AUTOSCALER_SPOT_GRACE_PERIOD"], want.grace},
		} {
			if pair[0] != pair[1] {
				t.Errorf("%s: %s is %v, want %v", want.path, what, pair[0], pair[1])
			}
		}
		for _, object := range made.objects {
			switch object.GetKind() {
			case "Namespace":
				if object.GetName() != want.namespace {
					t.Errorf("%s: namespace %s, want %s", want.path, object.GetName(), want.namespace)
				}
			case "ClusterRole", "ClusterRoleBinding":
			default:
				if object.GetNamespace() != want.namespace {
					t.Errorf("%s: %s %s is in %s", want.path, object.GetKind(), object.GetName(), object.GetNamespace())
				}
			}
			if subjects, found, _ := unstructured.NestedSlice(object.Object, "subjects"); found {
				if at := subjects[0].(map[string]any)["namespace"]; at != want.namespace {
					t.Errorf("%s: %s binds an account of %v", want.path, object.GetName(), at)
				}
			}
		}
	}
}

func TestVariablesOfTheConfigMapExist(t *testing.T) {
	flags, known := settings(t)
	for _, path := range builds {
		made := build(t, path)
		container := get[apps.Deployment](t, made.objects, "Deployment", plain).Spec.Template.Spec.Containers[0]
		for variable := range variables(t, made, container) {
			if !known[variable] {
				t.Errorf("%s: variable %s does not exist", path, variable)
			}
		}
		for flag := range arguments(t, container.Args[1:]) {
			if !flags[flag] {
				t.Errorf("%s: flag %s does not exist", path, flag)
			}
		}
	}
}

// Chart and kustomization configure the program in the same way.
func TestBaseAndChartAgree(t *testing.T) {
	base, chart := build(t, "deployments/base"), render(t, nil)
	ours, theirs := base.pods(t)[plain].Spec, chart.pods(t)[provider].Spec
	one, other := ours.Containers[0], theirs.Containers[0]
	for what, pair := range map[string][2]any{
		"ports":                    {one.Ports, other.Ports},
		"readiness":                {one.ReadinessProbe, other.ReadinessProbe},
		"liveness":                 {one.LivenessProbe, other.LivenessProbe},
		"security of the pod":      {ours.SecurityContext, theirs.SecurityContext},
		"security":                 {one.SecurityContext, other.SecurityContext},
		"resources":                {one.Resources, other.Resources},
		"grace":                    {ours.TerminationGracePeriodSeconds, theirs.TerminationGracePeriodSeconds},
		"variables of Services":    {ours.EnableServiceLinks, theirs.EnableServiceLinks},
		"strategy":                 {get[apps.Deployment](t, base.objects, "Deployment", plain).Spec.Strategy, get[apps.Deployment](t, chart.objects, "Deployment", provider).Spec.Strategy},
		"ports of the leader":      {get[core.Service](t, base.objects, "Service", plain).Spec.Ports, get[core.Service](t, chart.objects, "Service", provider).Spec.Ports},
		"families of the leader":   {get[core.Service](t, base.objects, "Service", plain).Spec.IPFamilyPolicy, get[core.Service](t, chart.objects, "Service", provider).Spec.IPFamilyPolicy},
		"ports of all the metrics": {get[core.Service](t, base.objects, "Service", plain+"-metrics").Spec.Ports, get[core.Service](t, chart.objects, "Service", provider+"-metrics").Spec.Ports},
	} {
		if !equal(pair[0], pair[1]) {
			t.Errorf("%s: base %+v, chart %+v", what, pair[0], pair[1])
		}
	}
	// The base has variables where the chart has flags, and its certificates are elsewhere.
	flags := func(made rendered, container core.Container) map[string]string {
		found := arguments(t, container.Args[1:])
		for name, value := range variables(t, made, container) {
			if flag, ours := strings.CutPrefix(name, "VPSIE_AUTOSCALER_"); ours {
				found["--"+strings.ReplaceAll(strings.ToLower(flag), "_", "-")] = value
			}
		}
		for name, value := range found {
			found[name] = value[strings.LastIndex(value, "/")+1:]
		}
		return found
	}
	base1, chart1 := flags(base, one), flags(chart, other)
	// Set by the downward API, or to the program's default in one of both.
	for _, name := range []string{"--namespace", "--observe-interval", "--create-timeout", "--shutdown-grace"} {
		delete(base1, name)
		delete(chart1, name)
	}
	if !maps.Equal(base1, chart1) {
		t.Errorf("flags of the base %v, of the chart %v", base1, chart1)
	}
}

// The replicas, and one more while they are replaced.
func TestQuotaOfProductionAdmitsARollout(t *testing.T) {
	made := build(t, "deployments/overlays/production")
	quota := get[core.ResourceQuota](t, made.objects, "ResourceQuota", plain).Spec.Hard
	deployment := get[apps.Deployment](t, made.objects, "Deployment", plain)
	resources := deployment.Spec.Template.Spec.Containers[0].Resources
	pods := int64(*deployment.Spec.Replicas) + int64(deployment.Spec.Strategy.RollingUpdate.MaxSurge.IntValue())
	for name, each := range map[core.ResourceName]int64{
		"requests.cpu": resources.Requests.Cpu().MilliValue(), "limits.cpu": resources.Limits.Cpu().MilliValue(),
		"requests.memory": resources.Requests.Memory().MilliValue(), "limits.memory": resources.Limits.Memory().MilliValue(),
		"pods": 1000,
	} {
		if most, has := quota[name]; !has || most.MilliValue() < pods*each {
			t.Errorf("%s: %v is not enough for %d pods", name, most.String(), pods)
		}
	}
}

func TestServiceMonitorComponentFindsTheMetrics(t *testing.T) {
	files := filesys.MakeFsOnDisk()
	folder := t.TempDir()
	kustomization := "resources: [" + root + "/deployments/overlays/dev]\ncomponents: [" + root + "/deployments/components/servicemonitor]\n"
	kustomization = strings.ReplaceAll(kustomization, root, relative(t, folder))
	if err := files.WriteFile(folder+"/kustomization.yaml", []byte(kustomization)); err != nil {
		t.Fatal(err)
	}
	made := buildFrom(t, files, folder)
	monitor := made.find("ServiceMonitor", plain)
	if monitor.GetNamespace() != "vpsie-system-dev" {
		t.Errorf("the ServiceMonitor is in %s", monitor.GetNamespace())
	}
	spec := as[prometheus.ServiceMonitor](t, monitor).Spec
	service := get[core.Service](t, made.objects, "Service", plain+"-metrics")
	if !selectorOf(t, &spec.Selector).Matches(labels.Set(service.Labels)) || spec.Endpoints[0].Port != service.Spec.Ports[0].Name {
		t.Errorf("%+v does not select %+v", spec, service)
	}
	if other := get[core.Service](t, made.objects, "Service", plain); selectorOf(t, &spec.Selector).Matches(labels.Set(other.Labels)) {
		t.Error("the ServiceMonitor scrapes the leader twice")
	}
}

// The Secret of the manifests has no keys.
func TestSecretForCredentialsIsEmpty(t *testing.T) {
	for _, path := range builds {
		secret := get[core.Secret](t, build(t, path).objects, "Secret", "vpsie-secret")
		if len(secret.Data)+len(secret.StringData) > 0 {
			t.Errorf("%s: %v", path, slices.Collect(maps.Keys(secret.Data)))
		}
	}
}

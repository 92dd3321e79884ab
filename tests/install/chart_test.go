package install

import (
	"fmt"
	"io"
	"log"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	certmanager "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	prometheus "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes/scheme"
	security "k8s.io/pod-security-admission/api"
	admission "k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

func init() {
	// Helm logs warnings about values that tests set to invalid values.
	log.SetOutput(io.Discard)
	for _, add := range []func() error{
		func() error { return prometheus.AddToScheme(scheme.Scheme) },
		func() error { return certmanager.AddToScheme(scheme.Scheme) },
	} {
		if err := add(); err != nil {
			panic(err)
		}
	}
}

const nodeGroups = `
nodeGroups:
  - {name: general, minNodes: 0, maxNodes: 10, resourceIdentifier: 5a1c94be-6f3d-11ef-9b52-bc24115e1e5f,
     datacenterID: ams1, offeringIDs: [s-2vcpu-4gb], labels: {workload: general}}
  - {name: batch, minNodes: 0, maxNodes: 5, resourceIdentifier: 5a1c94be-6f3d-11ef-9b52-bc24115e1e5f,
     datacenterID: ams1, offeringIDs: [s-8vcpu-16gb], taints: [{key: workload, value: batch, effect: NoSchedule}]}
`

const everything = nodeGroups + `
commonLabels: {team: infra}
imagePullSecrets: [{name: registry}]
vpsie: {existingSecret: mine, apiURL: "https://vpsie.example/apps/v2", rateLimit: 50, deletionShare: 0, timeout: 20s}
provider:
  {image: {tag: "1.2.3"},
   logLevel: "info,vpsie_autoscaler::vpsie=debug", observeInterval: 15s, catalogInterval: 1h, createTimeout: 15m,
   failedVPSieNodeTTL: 1h, orphanGrace: 30m, shutdownGrace: 40s,
   leaderElection: {id: other, leaseDuration: 30s, renewDeadline: 20s, retryPeriod: 4s},
   reserved: {cpuMillis: 0, memoryMiB: 1024, diskGiB: 20},
   hoursPerMonth: 720, costLimit: {hourly: "1.50", monthly: "1000"},
   priceFile: {overrides: [{offer: s-2vcpu-4gb, hourly: 0.03}, {discountPercent: 10},
                           {offer: s-2vcpu-4gb, capacityType: spot, hourly: "0.01", interruptionRate: 10}]},
   spotInstances: {enabled: true, gracePeriod: 90s, interruptionLoss: 20m, deletePods: false},
   noticeWebhook: {existingSecret: notices, from: [{namespaceSelector: {}}]},
   extraArgs: {orphan-grace: 20m}, extraEnv: [{name: RUST_BACKTRACE, value: "1"}],
   extraVolumes: [{name: more, emptyDir: {}}], extraVolumeMounts: [{name: more, mountPath: /more}],
   podLabels: {a: b}, podAnnotations: {a: b}, nodeSelector: {a: b}, tolerations: [{operator: Exists}],
   affinity: {nodeAffinity: {}}, serviceAccount: {annotations: {a: b}}}
clusterAutoscaler:
  {replicaCount: 2, startupTaints: [node.cilium.io/agent-not-ready], statusTaints: [example.com/status],
   extraArgs: {max-nodes-total: 1000000, expander: "grpc,priority"}, extraEnv: [{name: NO_PROXY, value: .svc}],
   podLabels: {a: b}, nodeSelector: {a: b}, tolerations: [{operator: Exists}], affinity: {nodeAffinity: {}},
   rbac: {extraRules: [{apiGroups: [autoscaling.x-k8s.io], resources: [capacitybuffers], verbs: [list]}]}}
priorityClass: {create: true}
service: {annotations: {a: b}}
networkPolicy: {enabled: true, metricsFrom: [{namespaceSelector: {}}], grpcFrom: [{podSelector: {}}]}
prometheus: {serviceMonitor: {enabled: true, labels: {a: b}}, rule: {enabled: true, labels: {a: b}}}
grafana: {dashboards: {enabled: true, annotations: {a: b}}}
`

// matrix has a case for each object or field that depends on a value.
var matrix = map[string]string{
	"defaults":               "",
	"NodeGroups":             nodeGroups,
	"everything":             everything,
	"your own CA":            "clusterAutoscaler: {enabled: false}",
	"your own CA, all else":  strings.Replace(everything, "clusterAutoscaler:\n  {", "clusterAutoscaler:\n  {enabled: false, ", 1),
	"CA 1.28":                "clusterAutoscaler: {version: 1.28.7, startupTaints: [a]}",
	"CA 1.36":                "clusterAutoscaler: {version: 1.36.1, statusTaints: [a]}",
	"cert-manager":           "tls: {mode: certManager}",
	"cert-manager's issuer":  "tls: {mode: certManager, certManager: {issuerRef: {name: corporate, kind: ClusterIssuer}}}",
	"existing certificates":  "tls: {mode: existing, existing: {serverSecret: s, clientSecret: c}}",
	"pod monitor":            "prometheus: {podMonitor: {enabled: true}}",
	"accounts of your own":   "{provider: {serviceAccount: {create: false, name: s}}, clusterAutoscaler: {serviceAccount: {create: false, name: c}}}",
	"roles of your own":      "{provider: {rbac: {create: false}}, clusterAutoscaler: {rbac: {create: false}}}",
	"images by digest":       "provider: {image: {digest: 'sha256:" + digest + "'}}",
	"another name":           "fullnameOverride: vpsie",
	"one replica, not moved": "provider: {replicaCount: 1, podDisruptionBudget: {enabled: true, minAvailable: 1}, topologySpreadConstraints: []}",
}

var digest = strings.Repeat("0123456789abcdef", 4)

func eachCase(t *testing.T, check func(*testing.T, rendered)) {
	for _, name := range slices.Sorted(maps.Keys(matrix)) {
		t.Run(name, func(t *testing.T) { check(t, render(t, fromYAML(t, matrix[name]))) })
	}
}

// eachInstall runs a check for the cases of the chart and for the kustomizations.
func eachInstall(t *testing.T, check func(*testing.T, rendered)) {
	eachCase(t, check)
	for _, path := range builds {
		t.Run(path, func(t *testing.T) { check(t, build(t, path)) })
	}
}

func TestHelmLintPasses(t *testing.T) {
	for name, given := range matrix {
		for _, message := range lint.All(chartPath, fromYAML(t, given), namespace, true).Messages {
			// The only message below a warning is the missing icon.
			if message.Severity > support.InfoSev {
				t.Errorf("%s: %v", name, message)
			}
		}
	}
}

// The schema of the values checks NodeGroups by the CRD.
func TestObjectsAreValid(t *testing.T) {
	eachInstall(t, func(t *testing.T, made rendered) {
		seen := map[string]bool{}
		for _, object := range made.objects {
			id := object.GetKind() + "/" + object.GetName()
			if seen[id] {
				t.Errorf("%s occurs twice", id)
			}
			seen[id] = true
			if object.GetKind() == "NodeGroup" {
				continue
			}
			if err := strict(object); err != nil {
				t.Error(err)
			}
		}
	})
}

// pods returns all pods of the chart, by name of their Deployment or Pod.
func (r rendered) pods(t testing.TB) map[string]core.PodTemplateSpec {
	pods := map[string]core.PodTemplateSpec{}
	for _, object := range r.objects {
		switch object.GetKind() {
		case "Deployment":
			pods[object.GetName()] = as[apps.Deployment](t, object).Spec.Template
		case "Pod":
			pod := as[core.Pod](t, object)
			pods[object.GetName()] = core.PodTemplateSpec{ObjectMeta: pod.ObjectMeta, Spec: pod.Spec}
		}
	}
	return pods
}

func TestPodsAreAllowedWherePodSecurityIsRestricted(t *testing.T) {
	evaluator, err := admission.NewEvaluator(admission.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	restricted := security.LevelVersion{Level: security.LevelRestricted, Version: security.LatestVersion()}
	eachInstall(t, func(t *testing.T, made rendered) {
		for name, pod := range made.pods(t) {
			result := admission.AggregateCheckResults(evaluator.EvaluatePod(restricted, &pod.ObjectMeta, &pod.Spec))
			if !result.Allowed {
				t.Errorf("%s: %s", name, result.ForbiddenDetail())
			}
			for _, container := range pod.Spec.Containers {
				if readOnly := container.SecurityContext.ReadOnlyRootFilesystem; readOnly == nil || !*readOnly {
					t.Errorf("%s: %s can write to its image", name, container.Name)
				}
			}
		}
	})
}

// The label that the program sets on the pod of the leader.
var leads = labels.Set{"autoscaler.vpsie.com/role": "leader"}

func TestServicesAndSelectorsFindTheirPods(t *testing.T) {
	eachInstall(t, func(t *testing.T, made rendered) {
		pods := made.pods(t)
		find := func(what string, selector labels.Selector) (found []core.PodTemplateSpec) {
			for _, pod := range pods {
				if selector.Matches(labels.Merge(pod.Labels, leads)) {
					found = append(found, pod)
				}
			}
			if len(found) != 1 {
				t.Errorf("%s selects the pods of %d owners, want 1", what, len(found))
			}
			return found
		}
		for _, object := range made.objects {
			what := object.GetKind() + " " + object.GetName()
			switch object.GetKind() {
			case "Service":
				service := as[core.Service](t, object)
				for _, pod := range find(what, labels.SelectorFromSet(service.Spec.Selector)) {
					for _, port := range service.Spec.Ports {
						if !hasPort(pod.Spec, port.TargetPort.StrVal, port.Port) {
							t.Errorf("%s: the pod has no port %s with number %d", what, port.TargetPort.StrVal, port.Port)
						}
					}
				}
			case "Deployment":
				find(what, selectorOf(t, as[apps.Deployment](t, object).Spec.Selector))
			case "PodDisruptionBudget":
				find(what, selectorOf(t, as[policy.PodDisruptionBudget](t, object).Spec.Selector))
			case "NetworkPolicy":
				spec := as[networking.NetworkPolicy](t, object).Spec
				for _, pod := range find(what, selectorOf(t, &spec.PodSelector)) {
					for _, rule := range spec.Ingress {
						for _, port := range rule.Ports {
							if !hasPort(pod.Spec, port.Port.StrVal, 0) {
								t.Errorf("%s admits port %s, which the pod does not have", what, port.Port)
							}
						}
					}
				}
			}
		}
		for name, pod := range pods {
			for _, spread := range pod.Spec.TopologySpreadConstraints {
				find(name+"'s spread", selectorOf(t, spread.LabelSelector))
			}
		}
	})
}

func selectorOf(t testing.TB, selector *meta.LabelSelector) labels.Selector {
	t.Helper()
	parsed, err := meta.LabelSelectorAsSelector(selector)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func hasPort(pod core.PodSpec, name string, number int32) bool {
	return slices.ContainsFunc(pod.Containers[0].Ports, func(port core.ContainerPort) bool {
		return port.Name == name && (number == 0 || port.ContainerPort == number)
	})
}

// Both replicas are ready, so only this label keeps Cluster Autoscaler from the standby.
func TestServiceForClusterAutoscalerSelectsTheLeaderOnly(t *testing.T) {
	made := render(t, nil)
	pod := made.pods(t)[provider]
	selects := func(name string, with labels.Set) bool {
		service := get[core.Service](t, made.objects, "Service", name)
		return labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Merge(pod.Labels, with))
	}
	if selects(provider, nil) || !selects(provider, leads) {
		t.Errorf("Service %s must select only the pod of the leader", provider)
	}
	if !selects(provider+"-metrics", nil) || !selects(provider+"-metrics", leads) {
		t.Errorf("Service %s-metrics must select all pods", provider)
	}
}

func TestMonitorsFindProviderAndClusterAutoscaler(t *testing.T) {
	services := render(t, fromYAML(t, everything))
	monitor := get[prometheus.ServiceMonitor](t, services.objects, "ServiceMonitor", provider)
	var found []string
	for _, object := range services.objects {
		if object.GetKind() != "Service" || !selectorOf(t, &monitor.Spec.Selector).Matches(labels.Set(object.GetLabels())) {
			continue
		}
		for _, port := range as[core.Service](t, object).Spec.Ports {
			if port.Name == monitor.Spec.Endpoints[0].Port {
				found = append(found, object.GetName())
			}
		}
	}
	if want := []string{autoscale, provider + "-metrics"}; !slices.Equal(found, want) {
		t.Errorf("the ServiceMonitor selects %v, want %v", found, want)
	}

	pods := render(t, fromYAML(t, matrix["pod monitor"]))
	podMonitor := get[prometheus.PodMonitor](t, pods.objects, "PodMonitor", provider)
	found = nil
	for name, pod := range pods.pods(t) {
		port := *podMonitor.Spec.PodMetricsEndpoints[0].Port
		if selectorOf(t, &podMonitor.Spec.Selector).Matches(labels.Set(pod.Labels)) && hasPort(pod.Spec, port, 0) {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	if want := []string{provider, autoscale}; !slices.Equal(found, want) {
		t.Errorf("the PodMonitor selects %v, want %v", found, want)
	}
	if _, err := renderWith(t, fromYAML(t, "prometheus: {podMonitor: {enabled: true}, serviceMonitor: {enabled: true}}"), nil); err == nil {
		t.Error("both monitors together are accepted, although they scrape each metric twice")
	}
}

func TestMountedAndNamedObjectsExist(t *testing.T) {
	eachCase(t, func(t *testing.T, made rendered) {
		has := func(kind, name string) bool { return made.find(kind, name) != nil }
		// Secrets of the user.
		certificates := map[string]bool{"s": true, "c": true, "notices": true}
		for _, object := range made.objects {
			if object.GetKind() == "Certificate" {
				certificates[as[certmanager.Certificate](t, object).Spec.SecretName] = true
			}
		}
		for name, pod := range made.pods(t) {
			volumes := map[string]bool{}
			for _, volume := range pod.Spec.Volumes {
				volumes[volume.Name] = true
				if s := volume.Secret; s != nil && !has("Secret", s.SecretName) && !certificates[s.SecretName] {
					t.Errorf("%s: Secret %s does not exist", name, s.SecretName)
				}
				if c := volume.ConfigMap; c != nil && !has("ConfigMap", c.Name) {
					t.Errorf("%s: ConfigMap %s does not exist", name, c.Name)
				}
			}
			for _, container := range pod.Spec.Containers {
				var mounted []string
				for _, mount := range container.VolumeMounts {
					if !volumes[mount.Name] {
						t.Errorf("%s: volume %s does not exist", name, mount.Name)
					}
					for _, other := range mounted {
						if strings.HasPrefix(mount.MountPath+"/", other+"/") {
							t.Errorf("%s: %s is inside the read-only %s", name, mount.MountPath, other)
						}
					}
					mounted = append(mounted, mount.MountPath)
				}
				for _, argument := range container.Args {
					_, value, _ := strings.Cut(argument, "=")
					if strings.HasPrefix(value, "/etc/") && !slices.ContainsFunc(mounted, func(path string) bool {
						return strings.HasPrefix(value, path+"/")
					}) {
						t.Errorf("%s: %s is not mounted", name, argument)
					}
				}
			}
			if account := pod.Spec.ServiceAccountName; account != "" && !has("ServiceAccount", account) &&
				account != "s" && account != "c" {
				t.Errorf("%s: ServiceAccount %s does not exist", name, account)
			}
			if class := pod.Spec.PriorityClassName; class != "" && !has("PriorityClass", class) {
				t.Errorf("%s: PriorityClass %s does not exist", name, class)
			}
		}
	})
}

func TestNodeGroupsAreRenderedAndKept(t *testing.T) {
	var given []any
	want := map[string]any{}
	files, err := filepath.Glob(root + "/deployments/samples/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	own, err := filepath.Glob(root + "/deployments/samples/*/*.yaml")
	if err != nil || len(own) == 0 {
		t.Fatal("no sample of a self-managed cluster: ", err)
	}
	for _, file := range append(files, own...) {
		sample := fromYAML(t, read(t, file))
		name := sample["metadata"].(map[string]any)["name"].(string)
		spec := sample["spec"].(map[string]any)
		want[name] = spec
		given = append(given, merged(spec, values{"name": name}))
	}
	for _, object := range render(t, values{"nodeGroups": given}).objects {
		if object.GetKind() != "NodeGroup" {
			continue
		}
		if !equal(object.Object["spec"], want[object.GetName()]) {
			t.Errorf("%s became %v", object.GetName(), object.Object["spec"])
		}
		if object.GetAnnotations()["helm.sh/resource-policy"] != "keep" {
			t.Errorf("an uninstall deletes %s", object.GetName())
		}
		delete(want, object.GetName())
	}
	if len(want) > 0 {
		t.Errorf("not rendered: %v", want)
	}
}

func equal(a, b any) bool {
	left, _ := yaml.Marshal(a)
	right, _ := yaml.Marshal(b)
	return string(left) == string(right)
}

func TestNotesHaveTheFlagsForAnotherClusterAutoscaler(t *testing.T) {
	made := render(t, fromYAML(t, everything))
	over := fromYAML(t, "clusterAutoscaler: {enabled: false}")
	notes := render(t, merged(fromYAML(t, everything), over)).notes
	settings := made.pods(t)[autoscale].Spec.Containers[0].Args
	settings = append(settings, strings.Split(made.find("ConfigMap", autoscale).Object["data"].(map[string]any)["cloud-config.yaml"].(string), "\n")...)
	for _, line := range settings {
		if !strings.Contains(notes, fmt.Sprintf("\n  %s\n", line)) && line != "" {
			t.Errorf("NOTES lack %q:\n%s", line, notes)
		}
	}
}

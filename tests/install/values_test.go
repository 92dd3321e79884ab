package install

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chartutil"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Values that have an effect only with other values.
var needs = map[string]string{
	"provider.noticeWebhook.from":      "{provider: {noticeWebhook: {existingSecret: notices}}, networkPolicy: {enabled: true}}",
	"provider.selfManaged.secretNames": "provider: {selfManaged: {enabled: true}}",
	"networkPolicy.":                   "networkPolicy: {enabled: true}",
	"prometheus.serviceMonitor.":       "prometheus: {serviceMonitor: {enabled: true}}",
	"prometheus.podMonitor.":           "prometheus: {podMonitor: {enabled: true}}",
	"prometheus.rule.":                 "prometheus: {rule: {enabled: true}}",
	"grafana.dashboards.":              "grafana: {dashboards: {enabled: true}}",
	"priorityClass.value":              "priorityClass: {create: true}",
	"tls.certManager.":                 "tls: {mode: certManager}",
	"tls.certManager.issuerRef.kind":   "tls: {mode: certManager, certManager: {issuerRef: {name: corporate}}}",
	"tls.certManager.issuerRef.group":  "tls: {mode: certManager, certManager: {issuerRef: {name: corporate}}}",
	"tls.existing.":                    "tls: {mode: existing, existing: {serverSecret: s, clientSecret: c}}",
}

// Candidates for another value: the first that the schema accepts.
var others = []any{
	true, false, 7, "7m", "7s", "x", "1.50", "generated", "certManager", "text", "Never", "https://x.example", "1.36.1",
	"sha256:" + digest, "SingleStack", []any{"x"}, []any{"IPv6"}, []any{7}, []any{map[string]any{"name": "x"}},
	[]any{map[string]any{"offer": "x", "hourly": 1}}, map[string]any{"x": "y"},
	[]any{map[string]any{"name": "x", "minNodes": 0, "maxNodes": 1, "resourceIdentifier": "x", "datacenterID": "x", "offeringIDs": []any{"x"}}},
}

// leaves returns the paths to all values that are not maps, or are empty maps.
func leaves(path []string, of any) map[string]any {
	found := map[string]any{}
	table, isTable := of.(map[string]any)
	if !isTable || len(table) == 0 {
		return map[string]any{strings.Join(path, "\x00"): of}
	}
	for name, value := range table {
		maps.Copy(found, leaves(append(slices.Clone(path), name), value))
	}
	return found
}

func with(path []string, value any) values {
	for _, name := range slices.Backward(path) {
		value = map[string]any{name: value}
	}
	return value.(map[string]any)
}

// Parts that differ between renderings.
var chance = regexp.MustCompile(`(?m)^ *(tls\.crt|tls\.key|ca\.crt|checksum/tls): .*$|T\d\d:\d\d:\d\dZ`)

func text(t testing.TB, made rendered) string {
	t.Helper()
	var all strings.Builder
	for _, object := range made.objects {
		content, err := json.MarshalIndent(object.Object, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		all.Write(content)
	}
	all.WriteString(made.notes)
	return chance.ReplaceAllString(strings.ReplaceAll(all.String(), `"`, ""), "")
}

func TestEveryValueChangesTheManifests(t *testing.T) {
	loaded := loadChart(t)
	before := map[string]string{}
	for joined, value := range leaves(nil, loaded.Values) {
		path := strings.Split(joined, "\x00")
		name := strings.Join(path, ".")
		context := ""
		longest := 0
		for prefix, text := range needs {
			if strings.HasPrefix(name, prefix) && len(prefix) > longest {
				context, longest = text, len(prefix)
			}
		}
		if strings.HasSuffix(name, ".enabled") {
			context = ""
		}
		given := fromYAML(t, context)
		if _, done := before[context]; !done {
			before[context] = text(t, render(t, given))
			if before[context] != text(t, render(t, given)) {
				t.Fatal("two renderings of the same values differ")
			}
		}
		tried := 0
		alive := false
		for _, other := range others {
			if fmt.Sprint(other) == fmt.Sprint(value) {
				continue
			}
			changed := merged(given, with(path, other))
			all, err := chartutil.CoalesceValues(loadChart(t), copied(changed))
			if err != nil || chartutil.ValidateAgainstSchema(loaded, all) != nil {
				continue
			}
			tried++
			made, err := renderWith(t, changed, nil)
			if err == nil && text(t, made) != before[context] {
				alive = true
				break
			}
		}
		if !alive {
			t.Errorf("%s has no effect on the manifests (%d other values are valid)", name, tried)
		}
	}
}

// Maps with keys of the user.
var free = regexp.MustCompile(`(^|\.)(commonLabels|labels|podLabels|annotations|podAnnotations|nodeSelector|affinity|` +
	`requests|limits|extraArgs|podSecurityContext|securityContext)(\.|$)`)

func refused(t testing.TB, changed values, names string) {
	t.Helper()
	_, err := renderWith(t, changed, nil)
	if err == nil {
		t.Errorf("%v is accepted", changed)
	} else if !strings.Contains(err.Error(), names) {
		t.Errorf("%v is refused without naming %s: %v", changed, names, err)
	}
}

func TestUnknownValuesAreRefusedByName(t *testing.T) {
	var walk func(path []string, table map[string]any)
	walk = func(path []string, table map[string]any) {
		if free.MatchString(strings.Join(path, ".")) {
			return
		}
		refused(t, with(append(slices.Clone(path), "unknown"), "x"), "'unknown'")
		for name, value := range table {
			if below, isTable := value.(map[string]any); isTable {
				walk(append(slices.Clone(path), name), below)
			}
		}
	}
	walk(nil, loadChart(t).Values)
	// Values of the original's chart.
	refused(t, fromYAML(t, "vpsie: {apiToken: secret}"), "'apiToken'")
	refused(t, fromYAML(t, "controller: {logLevel: debug}"), "'controller'")
	refused(t, fromYAML(t, "replicaCount: 3"), "'replicaCount'")
	refused(t, fromYAML(t, "spotInstances: {enabled: true}"), "'spotInstances'")
}

// Values that do not have the name of the flag that they set, with these flags.
var otherwise = map[string][]string{
	"vpsie.existingSecret":         {"--vpsie-secret-name"},
	"provider.listenAddress":       {"--expander-listen", "--grpc-listen", "--http-listen"},
	"provider.priceFile.overrides": {"--price-file"},
	// The names of the original's chart.
	"provider.spotInstances.enabled":          {"--spot-instances"},
	"provider.spotInstances.gracePeriod":      {"--spot-grace-period"},
	"provider.spotInstances.interruptionLoss": {"--spot-interruption-loss"},
	"provider.spotInstances.deletePods":       {"--spot-delete-pods"},
	"provider.selfManaged.enabled":            {"--backend"},
	"provider.noticeWebhook.existingSecret":   {"--notice-webhook-key-file", "--notice-webhook-listen"},
}

func TestProviderValuesHaveTheNamesOfTheirFlags(t *testing.T) {
	flags := func(given values) map[string]string {
		pod, _, err := unstructured.NestedMap(render(t, given).find("Deployment", provider).Object, "spec", "template", "spec")
		if err != nil {
			t.Fatal(err)
		}
		var words []string
		for _, argument := range pod["containers"].([]any)[0].(map[string]any)["args"].([]any)[1:] {
			words = append(words, argument.(string))
		}
		return arguments(t, words)
	}
	bare := func(name string) string { return strings.ToLower(strings.NewReplacer("-", "", ".", "").Replace(name)) }
	before := flags(nil)
	loaded := loadChart(t)
	named := 0
	for joined := range leaves(nil, loaded.Values) {
		path := strings.Split(joined, "\x00")
		name := strings.Join(path, ".")
		if path[0] != "provider" && path[0] != "vpsie" || name == "provider.extraArgs" {
			continue
		}
		for _, other := range others {
			changed := with(path, other)
			all, err := chartutil.CoalesceValues(loadChart(t), copied(changed))
			if err != nil || chartutil.ValidateAgainstSchema(loaded, all) != nil {
				continue
			}
			var set []string
			for flag, value := range flags(changed) {
				if value != before[flag] {
					set = append(set, flag)
				}
			}
			slices.Sort(set)
			want := otherwise[name]
			if want == nil {
				want = []string{"--" + bare(strings.TrimPrefix(name, "provider."))}
			}
			if len(set) == 0 {
				continue
			}
			named++
			if !slices.EqualFunc(set, want, func(flag, want string) bool { return bare(flag) == bare(want) }) {
				t.Errorf("%s sets %v, want %v", name, set, want)
			}
		}
	}
	if named < 20 {
		t.Errorf("only %d values set a flag", named)
	}
}

func TestValuesOfAWrongTypeAreRefusedByName(t *testing.T) {
	for joined, value := range leaves(nil, loadChart(t).Values) {
		path := strings.Split(joined, "\x00")
		var wrong any = map[string]any{"wrong": map[string]any{}}
		if _, isTable := value.(map[string]any); isTable {
			wrong = "wrong"
		}
		if free.MatchString(strings.Join(path[:len(path)-1], ".")) && strings.Contains(joined, "ecurityContext") {
			continue // checked by the API server, and by the evaluation of Pod Security
		}
		refused(t, with(path, wrong), "at '/"+strings.ReplaceAll(strings.ReplaceAll(joined, "/", "~1"), "\x00", "/"))
	}
}

func TestWrongValuesAreRefusedByName(t *testing.T) {
	for given, names := range map[string]string{
		"provider: {logFormat: console}":                          "/provider/logFormat",
		"provider: {listenAddress: localhost}":                    "/provider/listenAddress",
		"provider: {listenAddress: '[::]'}":                       "/provider/listenAddress",
		"service: {ipFamilyPolicy: DualStack}":                    "/service/ipFamilyPolicy",
		"service: {ipFamilies: [IPv7]}":                           "/service/ipFamilies/0",
		"provider: {observeInterval: 30}":                         "/provider/observeInterval",
		"provider: {observeInterval: half}":                       "/provider/observeInterval",
		"provider: {shutdownGrace: 1m}":                           "/provider/shutdownGrace",
		"vpsie: {existingSecret: ''}":                             "/vpsie/existingSecret",
		"vpsie: {timeout: 30}":                                    "/vpsie/timeout",
		"vpsie: {deletionShare: 101}":                             "/vpsie/deletionShare",
		"provider: {costLimit: {hourly: 0.5}}":                    "/provider/costLimit/hourly",
		"provider: {priceFile: {overrides: [{price: 1}]}}":        "'price'",
		"provider: {spotInstances: {gracePeriod: 120}}":           "/provider/spotInstances/gracePeriod",
		"provider: {spotInstances: {enabled: 'true'}}":            "/provider/spotInstances/enabled",
		"nodeGroups: [{name: g, spotConfig: {taint: NoExecute}}]": "/nodeGroups/0/spotConfig/taint",
		"tls: {mode: cert-manager}":                               "/tls/mode",
		"tls: {mode: existing}":                                   "tls.existing.",
		"clusterAutoscaler: {version: v1.33.6}":                   "/clusterAutoscaler/version",
		"clusterAutoscaler: {version: 1.33}":                      "/clusterAutoscaler/version",
		"clusterAutoscaler: {version: 1.25.0}":                    "/clusterAutoscaler/version",
		"clusterAutoscaler: {version: 1.28.0, statusTaints: [a]}": "clusterAutoscaler.statusTaints",
		"clusterAutoscaler: {extraArgs: {--v: 4}}":                "'--v'",
		"provider: {extraArgs: {--log-level: debug}}":             "'--log-level'",
		"provider: {extraArgs: ['--log-level=debug']}":            "/provider/extraArgs",
		"provider: {replicaCount: 0}":                             "/provider/replicaCount",
		"provider: {podDisruptionBudget: {maxUnavailable: half}}": "/provider/podDisruptionBudget/maxUnavailable",
		"nodeGroups: [{minNodes: 0}]":                             "/nodeGroups/0",
		"nodeGroups: [{name: General}]":                           "/nodeGroups/0/name",
		"nodeGroups: [{name: g, maxNode: 3}]":                     "'maxNode'",
		"nodeGroups: [{name: g, maxNodes: many}]":                 "/nodeGroups/0/maxNodes",
		"nodeGroups: [{name: g, taints: [{effect: Never}]}]":      "/nodeGroups/0/taints/0/effect",
		"nodeGroups: [{name: g, costLimit: {daily: '1'}}]":        "'daily'",
	} {
		refused(t, fromYAML(t, given), names)
	}
}

func TestExtraArgsOverrideFlagsOfTheProvider(t *testing.T) {
	got := render(t, fromYAML(t, `
provider:
  logLevel: debug
  extraArgs: {log-level: warn, reserved-cpu-millis: 1000000, price-file: /more/prices.yaml, log-format: "", simulate: true,
              grpc-insecure-plaintext: false}
`)).pods(t)[provider].Spec.Containers[0].Args
	for _, want := range []string{"--log-level=warn", "--reserved-cpu-millis=1000000", "--price-file=/more/prices.yaml",
		"--simulate", "--namespace=" + namespace} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is missing", want)
		}
	}
	for _, argument := range got {
		for _, removed := range []string{"--log-level=debug", "--log-format", "--grpc-insecure-plaintext"} {
			if strings.HasPrefix(argument, removed) {
				t.Errorf("%s must be absent", argument)
			}
		}
	}
}

func TestExtraArgsOverrideFlagsOfClusterAutoscaler(t *testing.T) {
	arguments := render(t, fromYAML(t, `
clusterAutoscaler:
  extraArgs: {scan-interval: 20s, max-nodes-total: 1000000, v: null, balancing-ignore-label: [a, b], namespace: other}
`)).pods(t)[autoscale].Spec.Containers[0].Args
	for _, want := range []string{"--scan-interval=20s", "--max-nodes-total=1000000", "--balancing-ignore-label=a",
		"--balancing-ignore-label=b", "--namespace=other", "--cloud-provider=externalgrpc"} {
		if !slices.Contains(arguments, want) {
			t.Errorf("%s is missing", want)
		}
	}
	for _, argument := range arguments {
		if strings.HasPrefix(argument, "--v=") || argument == "--scan-interval=10s" {
			t.Errorf("%s must be absent", argument)
		}
	}
}

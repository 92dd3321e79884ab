package install

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	admission "k8s.io/api/admissionregistration/v1"
	rbac "k8s.io/api/rbac/v1"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// withSelfManaged builds the overlay dev with the component.
func withSelfManaged(t testing.TB) rendered {
	t.Helper()
	files := filesys.MakeFsOnDisk()
	folder := t.TempDir()
	path := relative(t, folder) + "/deployments"
	kustomization := "resources: [" + path + "/overlays/dev]\ncomponents: [" + path + "/components/self-managed]\n"
	if err := files.WriteFile(folder+"/kustomization.yaml", []byte(kustomization)); err != nil {
		t.Fatal(err)
	}
	return buildFrom(t, files, folder)
}

// joinRights returns the permissions of the roles for joins: place, resource and verb. It checks their bindings.
func joinRights(t testing.TB, made rendered, cluster, name, account, own string) []string {
	t.Helper()
	found := map[string]bool{}
	add := func(place string, rules []rbac.PolicyRule, subjects []rbac.Subject) {
		if len(subjects) != 1 || subjects[0].Name != account || subjects[0].Namespace != own {
			t.Errorf("%s: the role is bound to %v", place, subjects)
		}
		for right := range rights(rules) {
			found[place+": "+right] = true
		}
	}
	binding := get[rbac.ClusterRoleBinding](t, made.objects, "ClusterRoleBinding", cluster)
	add("cluster", get[rbac.ClusterRole](t, made.objects, "ClusterRole", cluster).Rules, binding.Subjects)
	for _, role := range made.objects {
		if role.GetKind() != "Role" || role.GetName() != name {
			continue
		}
		in := slices.IndexFunc(made.objects, func(other object) bool {
			return other.GetKind() == "RoleBinding" && other.GetName() == name && other.GetNamespace() == role.GetNamespace()
		})
		if in < 0 {
			t.Fatalf("the role in %s is not bound", role.GetNamespace())
		}
		place := strings.ReplaceAll(role.GetNamespace(), own, "own")
		add(place, as[rbac.Role](t, role).Rules, as[rbac.RoleBinding](t, made.objects[in]).Subjects)
	}
	return slices.Sorted(maps.Keys(found))
}

func TestSelfManagedChartAndComponentAreEqual(t *testing.T) {
	component := withSelfManaged(t)
	chart := render(t, fromYAML(t, "provider: {selfManaged: {enabled: true}}"))
	want := []string{
		"cluster: namespaces get kube-system",
		"kube-public: configmaps get cluster-info",
		"kube-system: secrets create *", "kube-system: secrets delete *", "kube-system: secrets patch *",
		"own: secrets get vpsie-join",
	}
	const join, policy = "-join", "vpsie-autoscaler-bootstrap-tokens"
	cluster := namespace + "-" + provider + join
	for name, got := range map[string][]string{
		"component": joinRights(t, component, plain+join, plain+join, plain, namespace+"-dev"),
		"chart":     joinRights(t, chart, cluster, provider+join, provider, namespace),
	} {
		if !slices.Equal(got, want) {
			t.Errorf("%s: %s", name, strings.Join(got, "\n"))
		}
	}
	of := func(made rendered, name, account string) admission.ValidatingAdmissionPolicySpec {
		spec := get[admission.ValidatingAdmissionPolicy](t, made.objects, "ValidatingAdmissionPolicy", name).Spec
		who := fmt.Sprintf("request.userInfo.username == 'system:serviceaccount:%s'", account)
		if spec.MatchConditions[0].Expression != who {
			t.Errorf("the policy applies if %s, want %s", spec.MatchConditions[0].Expression, who)
		}
		spec.MatchConditions = nil
		binding := get[admission.ValidatingAdmissionPolicyBinding](t, made.objects, "ValidatingAdmissionPolicyBinding", name).Spec
		if binding.PolicyName != name || !slices.Equal(binding.ValidationActions, []admission.ValidationAction{admission.Deny}) {
			t.Errorf("%+v does not bind %s", binding, name)
		}
		return spec
	}
	one, other := of(component, policy, namespace+"-dev:"+plain), of(chart, cluster, namespace+":"+provider)
	if !reflect.DeepEqual(one, other) {
		t.Errorf("the policies differ:\n%+v\n%+v", one, other)
	}
}

func TestReleaseInKubeSystemMayWriteTokensAndReadItsSecrets(t *testing.T) {
	made, err := renderIn(t, "kube-system", loadChart(t), fromYAML(t, "provider: {selfManaged: {enabled: true}}"), nil)
	if err != nil {
		t.Fatal(err)
	}
	got := joinRights(t, made, "kube-system-"+provider+"-join", provider+"-join", provider, "kube-system")
	want := []string{
		"cluster: namespaces get kube-system", "kube-public: configmaps get cluster-info",
		"own: secrets create *", "own: secrets delete *", "own: secrets get vpsie-join", "own: secrets patch *",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
}

func TestSelfManagedIsOffByDefault(t *testing.T) {
	for name, made := range map[string]rendered{"chart": render(t, nil), "base": build(t, "deployments/base")} {
		for _, object := range made.objects {
			if strings.Contains(object.GetKind(), "AdmissionPolicy") || strings.HasPrefix(object.GetNamespace(), "kube-") {
				t.Errorf("%s: %s %s", name, object.GetKind(), object.GetName())
			}
		}
	}
}

package e2e

import (
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	failures "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// TestTokenPolicy sends Secrets as the provider, under the shipped roles and policy: only proper bootstrap tokens are
// accepted.
func TestTokenPolicy(t *testing.T) {
	c := plane{joinable: true}.start(t, scratch(t))
	c.must(t, "POST", "/api/v1/namespaces", object{"metadata": object{"name": namespace}})
	c.permit(t)
	config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfigOf("admin"))
	if err != nil {
		t.Fatal(err)
	}
	config.Impersonate = rest.ImpersonationConfig{
		UserName: account(release), Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"},
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	token := func(id string, change func(*core.Secret)) *core.Secret {
		secret := &core.Secret{
			ObjectMeta: meta.ObjectMeta{
				Name: "bootstrap-token-" + id, Labels: map[string]string{"app.kubernetes.io/managed-by": "vpsie-autoscaler"},
			},
			Type: core.SecretTypeBootstrapToken, Data: map[string][]byte{
				"token-id": []byte(id), "token-secret": []byte("0123456789abcdef"), "usage-bootstrap-authentication": []byte("true"),
				"auth-extra-groups": []byte(tokenGroups[0]), "expiration": []byte(time.Now().Add(time.Hour).UTC().Format(time.RFC3339)),
			},
		}
		change(secret)
		return secret
	}
	try := func(in string, secret *core.Secret) error {
		_, err := client.CoreV1().Secrets(in).Create(background, secret, meta.CreateOptions{DryRun: []string{meta.DryRunAll}})
		return err
	}
	tokens := client.CoreV1().Secrets("kube-system")
	await(t, "the policy is in force", 30*time.Second, func() error {
		err := try("kube-system", token("cccccc", func(s *core.Secret) { s.Type = core.SecretTypeOpaque }))
		if !isRefused(err) {
			return fmt.Errorf("the reply to an opaque Secret is %v", err)
		}
		return nil
	})
	proper := token("aaaaaa", func(*core.Secret) {})
	if _, err := tokens.Create(background, proper, meta.CreateOptions{}); err != nil {
		t.Errorf("a proper token is refused: %v", err)
	}
	patch := func(name, content string) error {
		_, err := tokens.Patch(background, name, types.MergePatchType, []byte(content), meta.PatchOptions{})
		return err
	}
	later := base64.StdEncoding.EncodeToString([]byte(time.Now().Add(2 * time.Hour).UTC().Format(time.RFC3339)))
	if err := patch(proper.Name, `{"data":{"expiration":"`+later+`"}}`); err != nil {
		t.Errorf("the extension of a token is refused: %v", err)
	}
	for what, content := range map[string]string{
		"a token that never expires": `{"data":{"expiration":null}}`,
		"another group":              `{"data":{"auth-extra-groups":"c3lzdGVtOmJvb3RzdHJhcHBlcnM6YWRtaW5z"}}`,
		"no label":                   `{"metadata":{"labels":null}}`,
	} {
		if err := patch(proper.Name, content); !isRefused(err) {
			t.Errorf("a change to %s: the reply is %v, want a refusal", what, err)
		}
	}
	for what, secret := range map[string]*core.Secret{
		"a token of a service account": token("bbbbbb", func(s *core.Secret) {
			s.Name, s.Type = "stolen", core.SecretTypeServiceAccountToken
			s.Annotations = map[string]string{core.ServiceAccountNameKey: "default"}
			s.Data = nil
		}),
		"a token of a service account with the name of a bootstrap token": token("bbbbbc", func(s *core.Secret) {
			s.Type = core.SecretTypeServiceAccountToken
			s.Annotations = map[string]string{core.ServiceAccountNameKey: "default"}
		}),
		"an opaque Secret":           token("cccccc", func(s *core.Secret) { s.Type = core.SecretTypeOpaque }),
		"a token without expiration": token("dddddd", func(s *core.Secret) { delete(s.Data, "expiration") }),
		"a token of another group": token("eeeeee", func(s *core.Secret) {
			s.Data["auth-extra-groups"] = []byte("system:bootstrappers:admins")
		}),
		"a token of two groups": token("eeeeef", func(s *core.Secret) {
			s.Data["auth-extra-groups"] = []byte(tokenGroups[0] + ",system:bootstrappers:admins")
		}),
		"a token of another name":   token("ffffff", func(s *core.Secret) { s.Name = "other-token-ffffff" }),
		"a token without the label": token("gggggg", func(s *core.Secret) { s.Labels = nil }),
	} {
		if err := try("kube-system", secret); !isRefused(err) {
			t.Errorf("%s: the reply is %v, want a refusal", what, err)
		}
	}
	if err := try("default", token("hhhhhh", func(*core.Secret) {})); !failures.IsForbidden(err) {
		t.Errorf("a token in another namespace: the reply is %v, want 403", err)
	}
	if _, err := tokens.List(background, meta.ListOptions{}); !failures.IsForbidden(err) {
		t.Errorf("a list of the Secrets of kube-system: the reply is %v, want 403", err)
	}
	if _, err := tokens.Get(background, proper.Name, meta.GetOptions{}); !failures.IsForbidden(err) {
		t.Errorf("a token is readable: the reply is %v, want 403", err)
	}
	other := token("jjjjjj", func(s *core.Secret) { s.Labels = nil })
	if _, err := c.client.CoreV1().Secrets("kube-system").Create(background, other, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := patch(other.Name, `{"data":{"expiration":"`+later+`"}}`); !isRefused(err) {
		t.Errorf("the extension of a token of another tool: the reply is %v, want a refusal", err)
	}
	if err := tokens.Delete(background, other.Name, meta.DeleteOptions{}); !isRefused(err) {
		t.Errorf("the deletion of a token of another tool: the reply is %v, want a refusal", err)
	}
	if err := tokens.Delete(background, proper.Name, meta.DeleteOptions{}); err != nil {
		t.Errorf("the deletion of an own token: %v", err)
	}
}

// isRefused returns true iff the API server refuses the request: by its rules, or by a policy.
func isRefused(err error) bool { return failures.IsForbidden(err) || failures.IsInvalid(err) }

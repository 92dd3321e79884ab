package e2e

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

// simulatedToken is the token of the account at VPSie. The simulator prints it.
const simulatedToken = "simulated-token"

// secrets returns what no output may have, with its description.
func (w *world) secrets() map[string]string {
	w.t.Helper()
	secrets := map[string]string{
		canary: "a secret variable", "VPSIE_JOIN_END": "a payload", "kubeadm join": "a payload", simulatedToken: "VPSie's token",
	}
	for _, token := range w.witness.allTokens() {
		_, secret, _ := strings.Cut(token.text, ".")
		secrets[secret] = "the token " + token.id
	}
	for _, password := range w.witness.allPasswords() {
		secrets[password] = "a password of a VM"
	}
	config, err := clientcmd.LoadFromFile(w.cluster.kubeconfigOf("provider"))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, user := range config.AuthInfos {
		secrets[user.Token] = "the token of the service account"
	}
	for secret, what := range maps.Clone(secrets) {
		secrets[base64.StdEncoding.EncodeToString([]byte(secret))] = what + ", encoded,"
	}
	return secrets
}

// outputs returns all logs, all objects that the provider writes, the metrics of its replicas, and their replies to Cluster
// Autoscaler.
func (w *world) outputs() map[string]string {
	w.t.Helper()
	texts := map[string]string{}
	logs, err := filepath.Glob(w.cluster.file("*.log"))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, log := range logs {
		text := tail(log, 1<<28)
		if filepath.Base(log) == "simulator.log" {
			text = strings.ReplaceAll(text, simulatedToken, "")
		}
		texts[filepath.Base(log)] = text
	}
	for _, path := range []string{
		"/apis/events.k8s.io/v1/events", objects + "/nodegroups", objects + "/vpsienodes",
		"/apis/autoscaler.vpsie.com/v1alpha1/autoscalerconfigs", "/apis/coordination.k8s.io/v1/leases", "/api/v1/nodes",
		"/api/v1/namespaces/" + namespace + "/configmaps",
	} {
		content, err := w.cluster.call("GET", path, nil)
		if err != nil {
			w.t.Fatal(err)
		}
		var list struct{ Items []json.RawMessage }
		if err := json.Unmarshal(content, &list); err != nil {
			w.t.Fatal(err)
		}
		for n, item := range list.Items {
			var named declared
			if err := json.Unmarshal(item, &named); err != nil {
				w.t.Fatal(err)
			}
			// The templates of the user.
			if named.Metadata.Name != "payloads" {
				texts[fmt.Sprintf("%s %s %d", path, named.Metadata.Name, n)] = string(item)
			}
		}
	}
	for _, replica := range w.provider.replicas {
		var content []byte
		await(w.t, replica.name+" shows its metrics", 20*time.Second, func() error {
			response, err := probe.Get("http://" + replica.http + "/metrics")
			if err != nil {
				return err
			}
			defer response.Body.Close()
			content, err = io.ReadAll(response.Body)
			if err == nil && len(content) == 0 {
				err = errors.New("it shows none")
			}
			return err
		})
		texts["the metrics of "+replica.name] = string(content)
	}
	var replies strings.Builder
	for _, e := range w.proxy.allExchanges() {
		replies.Write(e.reply)
	}
	texts["the replies to Cluster Autoscaler"] = replies.String()
	return texts
}

// checkSecrets searches all output for tokens, passwords, payloads and secret variables. It returns the number of secrets.
func (w *world) checkSecrets() int {
	w.t.Helper()
	secrets, outputs := w.secrets(), w.outputs()
	// A replica that never led has none.
	if !slices.ContainsFunc(w.provider.replicas, func(replica *replica) bool {
		return strings.Contains(outputs[replica.name+".log"], "DEBUG")
	}) {
		w.t.Error("no replica has logged debug messages")
	}
	for secret, what := range secrets {
		for where, text := range outputs {
			if at := strings.Index(text, secret); at >= 0 {
				w.t.Errorf("%s is in %s: ...%s...", what, where, text[max(0, at-80):min(len(text), at+20)])
			}
		}
	}
	return len(secrets)
}

// checkWitnessed checks that there were secrets to find: passwords, tokens, and a payload with the secret variable.
func (w *world) checkWitnessed() {
	w.t.Helper()
	if passwords, tokens := len(w.witness.allPasswords()), len(w.witness.allTokens()); passwords < 2 || tokens < 2 {
		w.t.Errorf("%d passwords and %d tokens were seen", passwords, tokens)
	}
	for _, script := range w.witness.allScripts() {
		if strings.Contains(script.content, canary) && strings.Contains(script.content, "kubeadm join") {
			return
		}
	}
	w.t.Error("no script has the payload")
}

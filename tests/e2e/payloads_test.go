package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// joinScript is a template of a kubeadm payload. Its CA hashes are inserted.
const joinScript = `#!/bin/sh
cat >/run/join.yaml <<'END'
apiVersion: kubeadm.k8s.io/v1beta4
kind: JoinConfiguration
discovery:
  bootstrapToken:
    apiServerEndpoint: {{ endpoint|yaml }}
    token: {{ token|yaml }}
    caCertHashes: %s
nodeRegistration:
  name: {{ node_name|yaml }}
  taints: {{ taints|yaml }}
  kubeletExtraArgs:
  - name: node-labels
    value: {{ kubelet_labels|yaml }}
END
kubeadm join --config /run/join.yaml
`

// withPayload has a payload of the ConfigMap `payloads`.
func withPayload(key string, more object) object {
	own := object{"payload": object{"configMapKeyRef": object{"name": "payloads", "key": key}}}
	return patched(object{"selfManaged": own}, more)
}

// badPayloads: NodeGroups whose payload cannot be made have a condition with the problem, and no request; others work.
func badPayloads(t *testing.T, d driver, recorded *recording) {
	own := vmGroup("general", 2, object{}, small)
	groups := []object{own,
		vmGroup("undefined", 2, withPayload("undefined", nil), small),
		vmGroup("label", 2, object{"labels": object{"node-restriction.kubernetes.io/team": "one"}}, small),
		vmGroup("long", 2, withPayload("long", nil), small),
		vmGroup("config", 2, withPayload("config", nil), small),
	}
	w := selfManagedWorld(t, d, recorded, setting{}, groups...)
	w.cluster.must(t, "POST", "/api/v1/namespaces/"+namespace+"/configmaps", object{
		"metadata": object{"name": "payloads"}, "data": object{
			"undefined": "#!/bin/sh\necho {{ vars.missing }} {{ token }}\n",
			"long":      "#!/bin/sh\n# " + strings.Repeat("x", 17000) + " {{ token }}\n",
			"config":    "#cloud-config\n# {{ token }}\n",
		},
	})
	for _, bad := range []string{"undefined", "label", "long", "config"} {
		w.deployTo(ofGroup(bad), bad, 1, "800m", "500Mi")
	}
	w.deployTo(ofGroup("general"), "web", 2, "800m", "500Mi")
	w.awaitSettled(2, 4, 1, 2*time.Minute)
	for group, words := range map[string]string{
		"undefined": "vars.missing", "label": "node-restriction.kubernetes.io/team", "long": "16", "config": "#!",
	} {
		w.awaitConditionText(group, "PayloadValid", words, 2*time.Minute)
	}
	hold(t, "no machine of a bad payload is created", 10*time.Second, func() error { return w.checkSettled(2, 4, 1) })
	w.checkCreated(1)
	w.awaitNoLeftovers(30 * time.Second)
	w.done(d, "9. bad payloads")
}

// payloadNeverJoins: VMs whose payload has the hash of another CA do not join. The provider stops after three failures,
// until the payload changes. It takes more than ten minutes: VMs have this time to join.
func payloadNeverJoins(t *testing.T, d driver, recorded *recording) {
	onlyLong(t)
	w := selfManagedWorld(t, d, recorded,
		setting{autoscaler: []string{"--max-node-provision-time=11m", "--initial-node-group-backoff-duration=2s", "--max-node-group-backoff-duration=5s"}},
		vmGroup("general", 8, withPayload("script", nil), small))
	payload := func(hashes string) object { return object{"script": fmt.Sprintf(joinScript, hashes)} }
	w.cluster.must(t, "POST", "/api/v1/namespaces/"+namespace+"/configmaps", object{
		"metadata": object{"name": "payloads"}, "data": payload(`["sha256:` + strings.Repeat("0", 64) + `"]`),
	})
	w.deploy("web", 0, "1500m", "500Mi")
	// The failures of payloads that were made within a minute count once.
	for n := range 3 {
		w.scale("web", int32(n+1))
		await(t, fmt.Sprintf("%d VMs refuse to join", n+1), 2*time.Minute, func() error { return w.checkRefused(n + 1) })
		last := w.allVMs()[n].CreatedAt
		await(t, "a minute has passed", 2*time.Minute, func() error {
			if passed := time.Since(last); passed < 65*time.Second {
				return fmt.Errorf("%s", passed)
			}
			return nil
		})
	}
	w.cluster.awaitEventWithin(t, "NodeGroup", "general", "never joined", 0, 14*time.Minute)
	w.awaitConditionText("general", "PayloadValid", "never joined", 2*time.Minute)
	// After each failure, Cluster Autoscaler requests another machine; the last failure may be counted after that.
	made := w.countCreated()
	if made > 6 {
		t.Errorf("%d VMs were created, want at most 6", made)
	}
	w.scale("web", 6)
	hold(t, "no further machine is added", 30*time.Second, func() error {
		if now := w.countCreated(); now != made {
			return fmt.Errorf("%d VMs were created after the stop", now-made)
		}
		return nil
	})
	w.checkNoShortage()
	w.cluster.patch(t, "/api/v1/namespaces/"+namespace+"/configmaps/payloads", object{"data": payload("{{ ca_hashes|yaml }}")})
	at := time.Now()
	await(t, "VMs with the corrected payload run pods", 3*time.Minute, func() error {
		running, waiting, err := w.pods()
		if err == nil && running < 8-made {
			err = fmt.Errorf("%d pods run, %d wait", running, waiting)
		}
		return err
	})
	w.note("%d VMs of the wrong payload; %d pods ran %.0f s after the correction", made, 8-made, time.Since(at).Seconds())
	w.done(d, "10+25. payload that never joins")
}

// checkRefused returns an error unless this number of VMs have refused the CA of the API server.
func (w *world) checkRefused(want int) error {
	machines, err := w.vpsie.workers()
	refused := 0
	for _, machine := range machines {
		if machine.Plain.Boot.State == "refused" && strings.Contains(machine.Plain.Boot.Reason, "hash") {
			refused++
		}
	}
	if err == nil && refused != want {
		err = fmt.Errorf("%d of %d", refused, len(machines))
	}
	return err
}

// checkNoShortage checks that neither events nor replies to Cluster Autoscaler report a shortage.
func (w *world) checkNoShortage() {
	w.t.Helper()
	events, err := w.cluster.events()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, event := range events {
		if strings.Contains(event.Note, "out of stock") || strings.Contains(event.Note, "capacity") {
			w.t.Errorf("an event reports a shortage: %s", event.Note)
		}
	}
	for _, e := range w.proxy.allExchanges() {
		for _, code := range []string{"STOCKOUT", "QUOTA_EXCEEDED", "DATACENTER_UNAVAILABLE"} {
			if strings.Contains(string(e.reply), code) {
				w.t.Errorf("the reply to %s has %s", e.rpc, code)
			}
		}
	}
}

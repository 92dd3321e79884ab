package install

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	certmanager "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	apps "k8s.io/api/apps/v1"
	policy "k8s.io/api/policy/v1"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

const kustomizeReadme = root + "/deployments/README.md"

// customised builds the kustomization that the README shows, on top of an overlay.
func customised(t *testing.T, overlay string) rendered {
	t.Helper()
	example := regexp.MustCompile("(?s)```yaml\n(apiVersion: kustomize.*?)```").FindStringSubmatch(read(t, kustomizeReadme))
	if example == nil {
		t.Fatal("the README shows no kustomization")
	}
	folder := t.TempDir()
	text := strings.ReplaceAll(example[1], "../vpsie-autoscaler/", relative(t, folder)+"/")
	text = strings.Replace(text, "overlays/production", "overlays/"+overlay, 1)
	files := filesys.MakeFsOnDisk()
	if err := files.WriteFile(folder+"/kustomization.yaml", []byte(text)); err != nil {
		t.Fatal(err)
	}
	return buildFrom(t, files, folder)
}

func TestKustomizationOfTheReadmeWorks(t *testing.T) {
	made := customised(t, "production")
	for _, object := range made.objects {
		if err := strict(object); err != nil {
			t.Error(err)
		}
	}
	container := get[apps.Deployment](t, made.objects, "Deployment", plain).Spec.Template.Spec.Containers[0]
	if !strings.HasPrefix(container.Image, "registry.example.com/vpsie-autoscaler:") {
		t.Errorf("the image is %s", container.Image)
	}
	_, known := settings(t)
	set := variables(t, made, container)
	for variable := range set {
		if !known[variable] {
			t.Errorf("variable %s does not exist", variable)
		}
	}
	if limit := set["VPSIE_AUTOSCALER_COST_LIMIT_MONTHLY"]; limit != "500" {
		t.Errorf("the limit is %q", limit)
	}
	if made.find("ServiceMonitor", plain) == nil {
		t.Error("the ServiceMonitor does not exist")
	}
}

func TestCertManagerComponentMakesAllCertificates(t *testing.T) {
	for overlay, namespace := range map[string]string{"production": "vpsie-system", "dev": "vpsie-system-dev"} {
		made := customised(t, overlay)
		issuers, secrets := map[string]string{}, map[string]certmanager.CertificateSpec{}
		for _, object := range made.objects {
			switch object.GetKind() {
			case "Issuer":
				spec := as[certmanager.Issuer](t, object).Spec
				issuers[object.GetName()] = ""
				if spec.CA != nil {
					issuers[object.GetName()] = spec.CA.SecretName
				}
			case "Certificate":
				spec := as[certmanager.Certificate](t, object).Spec
				secrets[spec.SecretName] = spec
			default:
				continue
			}
			if object.GetNamespace() != namespace {
				t.Errorf("%s: %s %s is in %q", overlay, object.GetKind(), object.GetName(), object.GetNamespace())
			}
		}
		mounted := get[apps.Deployment](t, made.objects, "Deployment", plain).Spec.Template.Spec.Volumes[0].Secret.SecretName
		server, client := secrets[mounted], secrets["vpsie-autoscaler-client-tls"]
		if host := plain + "." + namespace + ".svc"; fmt.Sprint(server.DNSNames) != "["+host+"]" {
			t.Errorf("%s: the certificate of Secret %s is for %v, not %s", overlay, mounted, server.DNSNames, host)
		}
		for usage, leaf := range map[certmanager.KeyUsage]certmanager.CertificateSpec{
			certmanager.UsageServerAuth: server, certmanager.UsageClientAuth: client,
		} {
			if leaf.IsCA || len(leaf.Usages) != 2 || leaf.Usages[1] != usage {
				t.Errorf("%s: a certificate is for %v, not %s", overlay, leaf.Usages, usage)
			}
			// Up to the authority, which signs itself.
			authority, has := secrets[issuers[leaf.IssuerRef.Name]]
			if self, known := issuers[authority.IssuerRef.Name]; !has || !authority.IsCA || !known || self != "" {
				t.Errorf("%s: the certificate for %s is by %q", overlay, usage, leaf.IssuerRef.Name)
			}
		}
	}
}

func TestReadmeHasTheFiguresOfTheOverlays(t *testing.T) {
	rows := map[string][]string{}
	for line := range strings.Lines(read(t, kustomizeReadme)) {
		if cells := strings.Split(strings.Trim(line, "| \n"), " | "); len(cells) == 4 {
			rows[cells[0]] = cells[1:]
		}
	}
	for at, overlay := range []string{"dev", "staging", "production"} {
		made := build(t, "deployments/overlays/"+overlay)
		deployment := get[apps.Deployment](t, made.objects, "Deployment", plain)
		container := deployment.Spec.Template.Spec.Containers[0]
		set := variables(t, made, container)
		requests, limits := container.Resources.Requests, container.Resources.Limits
		budget := get[policy.PodDisruptionBudget](t, made.objects, "PodDisruptionBudget", plain).Spec
		allowed := "`maxUnavailable: " + fmt.Sprint(budget.MaxUnavailable) + "`"
		if budget.MinAvailable != nil {
			allowed = "`minAvailable: " + fmt.Sprint(budget.MinAvailable) + "`"
		}
		for row, want := range map[string]string{
			"namespace":                     "`" + deployment.Namespace + "`",
			"replicas":                      fmt.Sprint(*deployment.Spec.Replicas),
			"disruption budget":             allowed,
			"CPU, requested and at most":    requests.Cpu().String() + ", " + limits.Cpu().String(),
			"memory, requested and at most": requests.Memory().String() + ", " + limits.Memory().String(),
			"log":                           "`" + set["VPSIE_AUTOSCALER_LOG_LEVEL"] + "`, " + strings.Replace(set["VPSIE_AUTOSCALER_LOG_FORMAT"], "json", "JSON", 1),
			"`--observe-interval`":          set["VPSIE_AUTOSCALER_OBSERVE_INTERVAL"],
			"`--create-timeout`":            set["VPSIE_AUTOSCALER_CREATE_TIMEOUT"],
		} {
			if rows[row] == nil || !strings.Contains(rows[row][at], want) {
				t.Errorf("%s: the README has %q in %q, the overlay %s", overlay, rows[row], row, want)
			}
		}
	}
}

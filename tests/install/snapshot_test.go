package install

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// Objects and flags of an installation, so that a diff shows changes.
func TestInstallMatchesTheSnapshot(t *testing.T) {
	made := render(t, fromYAML(t, nodeGroups))
	var text strings.Builder
	for _, object := range made.objects {
		fmt.Fprintln(&text, object.GetKind(), object.GetName())
	}
	for _, name := range []string{provider, autoscale} {
		container := made.pods(t)[name].Spec.Containers[0]
		fmt.Fprintf(&text, "\n%s\n  %s\n", container.Image, strings.Join(append(container.Command, container.Args...), "\n  "))
	}
	fmt.Fprintf(&text, "\ncloud-config.yaml\n%s", made.find("ConfigMap", autoscale).Object["data"].(map[string]any)["cloud-config.yaml"])

	const path = "testdata/install.txt"
	if update {
		if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if text.String() != read(t, path) {
		t.Errorf("%s differs: UPDATE=1 tests/install/run, and review the difference\n%s", path, text.String())
	}
}

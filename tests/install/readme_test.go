package install

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// The README of the chart lists its values with their comments `# -- ...`, as helm-docs reads them.
func TestReadmeOfTheChartMatchesItsValues(t *testing.T) {
	path := chartPath + "/README.md"
	page := chartReadme(t)
	if update {
		if err := os.WriteFile(path, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if stored, err := os.ReadFile(path); err != nil || string(stored) != page {
		t.Errorf("%s differs: UPDATE=1 tests/install/run", path)
	}
}

const chartReadmeHead = `# %s

Generated from Chart.yaml and values.yaml by ` + "`UPDATE=1 tests/install/run`" + `.

%s.

[Install](../../../docs/use/install.md) shows an installation step by step, [Migration](../../../docs/use/migrate.md) the
way from the original VPSie autoscaler and its chart, [Operations](../../../docs/operate/operations.md) upgrades and
rollbacks.

A value of the provider has the name of its flag: ` + "`provider.logLevel`" + ` sets ` + "`--log-level`" + `, ` +
	"`provider.costLimit.hourly`" + ` sets
` + "`--cost-limit-hourly`" + `, ` + "`vpsie.rateLimit`" + ` sets ` + "`--vpsie-rate-limit`" + `. Exceptions are
` + "`provider.spotInstances`" + ` (` + "`--spot-instances`" + `, ` + "`--spot-grace-period`" + `, ` + "`--spot-interruption-loss`" + `, ` + "`--spot-delete-pods`" + `) and
` + "`provider.noticeWebhook`" + ` (` + "`--notice-webhook-listen`" + `, ` + "`--notice-webhook-key-file`" + `). Empty and null values set no flag.
[Settings](../../../docs/reference/settings.md) has the defaults of the program.
`

func chartReadme(t testing.TB) string {
	t.Helper()
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(read(t, chartPath+"/values.yaml")), &document); err != nil {
		t.Fatal(err)
	}
	metadata := loadChart(t).Metadata
	var page strings.Builder
	fmt.Fprintf(&page, chartReadmeHead, metadata.Name, metadata.Description)
	section := ""
	top := document.Content[0].Content
	for n := 0; n < len(top); n += 2 {
		// A table of its own for each map of values, and one for the single values before, between and after them.
		heading := "General"
		if top[n+1].Kind == yaml.MappingNode && description(top[n]) == "" {
			heading = "`" + top[n].Value + "`"
		}
		if heading != section {
			fmt.Fprintf(&page, "\n## %s\n\n| Value | Type | Default | |\n| --- | --- | --- | --- |\n", heading)
			section = heading
		}
		rows(t, &page, "", top[n], top[n+1])
	}
	return page.String()
}

// rows writes a line for each value that has a description. Below a map without one, each value must have
// one.
func rows(t testing.TB, page *strings.Builder, above string, key, value *yaml.Node) {
	t.Helper()
	name := above + key.Value
	text := description(key)
	if text == "" && value.Kind == yaml.MappingNode && len(value.Content) > 0 {
		for n := 0; n < len(value.Content); n += 2 {
			rows(t, page, name+".", value.Content[n], value.Content[n+1])
		}
		return
	}
	if text == "" {
		t.Errorf("values.yaml: %s has no comment `# -- ...`", name)
	}
	var content any
	if err := value.Decode(&content); err != nil {
		t.Fatal(err)
	}
	shown, err := json.Marshal(content)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]string{"!!map": "object", "!!seq": "list", "!!str": "string", "!!int": "int", "!!bool": "bool", "!!null": "number"}
	cell := strings.NewReplacer("|", "\\|")
	fmt.Fprintf(page, "| `%s` | %s | `%s` | %s |\n", name, kinds[value.Tag], cell.Replace(string(shown)), cell.Replace(text))
}

// description returns the text of a comment after its `# -- `.
func description(key *yaml.Node) string {
	_, text, found := strings.Cut(key.HeadComment, "# -- ")
	if !found {
		return ""
	}
	lines := strings.Split(text, "\n")
	for n, line := range lines {
		lines[n] = strings.TrimSpace(strings.TrimPrefix(line, "#"))
	}
	return strings.Join(lines, " ")
}

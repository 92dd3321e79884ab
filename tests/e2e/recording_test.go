package e2e

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// recording has the messages of a release of Cluster Autoscaler: one example of each shape.
type recording struct {
	mutex  sync.Mutex
	shapes map[string]line
	loops  map[string]loopLine
}

type line struct {
	RPC     string `json:"rpc"`
	Request string `json:"request"`
	Reply   string `json:"reply"`
	Code    string `json:"code"`
}

// loopLine is a run of the loop with the size of the cluster.
type loopLine struct {
	Phase   string         `json:"phase"`
	Groups  int            `json:"groups"`
	Managed int            `json:"managed"`
	Foreign int            `json:"foreign"`
	RPCs    map[string]int `json:"rpcs"`
}

func newRecording() *recording {
	return &recording{shapes: map[string]line{}, loops: map[string]loopLine{}}
}

func (r *recording) add(exchanges []exchange) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	for _, e := range exchanges {
		if e.code == "Unavailable" {
			continue // no replica replied
		}
		key := e.rpc + " " + shape(e.request) + " " + shape(e.reply) + " " + e.code
		if _, known := r.shapes[key]; !known {
			r.shapes[key] = line{e.rpc, hex.EncodeToString(e.request), hex.EncodeToString(e.reply), e.code}
		}
	}
}

// save writes <folder>/<minor>/messages.jsonl and loops.jsonl.
func (r *recording) save(t testing.TB, folder, minor string) {
	t.Helper()
	folder = filepath.Join(folder, minor)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	var messages, loops bytes.Buffer
	for _, key := range slices.Sorted(maps.Keys(r.shapes)) {
		_ = json.NewEncoder(&messages).Encode(r.shapes[key])
	}
	for _, key := range slices.Sorted(maps.Keys(r.loops)) {
		_ = json.NewEncoder(&loops).Encode(r.loops[key])
	}
	for name, content := range map[string]*bytes.Buffer{"messages.jsonl": &messages, "loops.jsonl": &loops} {
		if err := os.WriteFile(filepath.Join(folder, name), content.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// shape returns the fields of a message without its schema. Messages that differ only in values have the same
// shape.
func shape(message []byte) string {
	fields := map[string]bool{}
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return "?"
		}
		size := protowire.ConsumeFieldValue(number, kind, message[n:])
		if size < 0 {
			return "?"
		}
		field := fmt.Sprintf("%d", number)
		if kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(message[n:])
			field += inside(value)
		}
		fields[field] = true
		message = message[n+size:]
	}
	names := slices.Collect(maps.Keys(fields))
	sort.Strings(names)
	return "{" + strings.Join(names, ",") + "}"
}

func inside(value []byte) string {
	printable := func(r rune) bool { return unicode.IsPrint(r) || r == '\n' || r == '\t' }
	if utf8.Valid(value) && strings.IndexFunc(string(value), func(r rune) bool { return !printable(r) }) < 0 {
		return ""
	}
	if nested := shape(value); !strings.Contains(nested, "?") {
		return nested
	}
	return ""
}

func TestShapeTellsFieldsAndNotValues(t *testing.T) {
	message := func(text string, numbers ...protowire.Number) []byte {
		var built []byte
		for _, number := range numbers {
			built = protowire.AppendString(protowire.AppendTag(built, number, protowire.BytesType), text)
		}
		return built
	}
	if shape(message("a", 1, 2)) != shape(message("another", 1, 2)) {
		t.Error("messages that differ in values have different shapes")
	}
	if shape(message("a", 1, 2)) == shape(message("a", 1)) {
		t.Error("messages that differ in fields have the same shape")
	}
}

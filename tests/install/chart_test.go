package install

import (
	"testing"
)

func TestFirst(t *testing.T) {
	r := render(t, nil)
	for _, o := range r.objects {
		t.Log(o.GetKind(), o.GetName())
		if err := strict(o); err != nil {
			t.Error(err)
		}
	}
	t.Log(r.notes)
}

package packaging

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/slid-agent/slid/internal/config"
)

const example = "config/slid.yaml"

// commentedOut is the mark of a key that is commented out. Prose has one space after the mark, keys have none or
// their indentation, which is at least two.
var commentedOut = regexp.MustCompile(`(?m)^#(\S|  +\S)`)

func TestExampleIsTheDefault(t *testing.T) {
	got, err := config.Load(example)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(config.Default(), got, cmpopts.IgnoreUnexported(config.Config{})); diff != "" {
		t.Errorf("as shipped it changes the defaults (-default +example):\n%s", diff)
	}
}

func TestExampleWithEveryKeySet(t *testing.T) {
	data, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	got, err := config.Parse(example, commentedOut.ReplaceAll(data, []byte("$1")))
	if err != nil {
		t.Fatal(err)
	}
	if want := config.Default(); got.Interval != want.Interval || got.Host.Root != want.Host.Root {
		t.Errorf("shows interval %v, host.root %s; the defaults are %v, %s",
			got.Interval, got.Host.Root, want.Interval, want.Host.Root)
	}
	if err := got.CheckCollectors(map[string][]string{"host": {"disk"}, "latency": {"runqueue", "softirq"}}); err != nil {
		t.Error(err)
	}
	for _, field := range unset(reflect.ValueOf(got), "Config") {
		t.Errorf("no example sets %s", field)
	}
	if last := got.Export[len(got.Export)-1]; last.Interval != time.Minute {
		t.Errorf("destination %s is due every %v", last.Name, last.Interval)
	}
}

// unset returns the exported fields of v that are zero; a field in a list counts as set if one item sets it.
func unset(v reflect.Value, name string) []string {
	var list []string
	switch v.Kind() {
	case reflect.Struct:
		if v.Type().PkgPath() != reflect.TypeFor[config.Config]().PkgPath() {
			break // what a key means, not the key itself
		}
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				list = append(list, unset(v.Field(i), name+"."+f.Name)...)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			item := unset(v.Index(i), name+"[]")
			if i == 0 {
				list = item
			}
			list = slices.DeleteFunc(list, func(s string) bool { return !slices.Contains(item, s) })
		}
		if v.Len() == 0 {
			list = []string{name}
		}
	}
	if len(list) == 0 && v.IsZero() {
		list = []string{name}
	}
	return list
}

package issuer

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/internal/rate"
	"github.com/mayfly-ca/mayfly/oidc/policy"
)

// E6 // E7: only the settings of KeysConfig, and whether the type is kubernetes, decide which keys a provider has.
func TestProviderEntry(t *testing.T) {
	t.Parallel()
	zero := (&Entry{}).ProviderEntry()
	var c EntryConfig
	settings := 0
	for v := range eachSetting(reflect.ValueOf(&c).Elem()) {
		settings++
		switch v.Interface().(type) {
		case string:
			v.SetString("x")
		case bool:
			v.SetBool(true)
		case time.Duration, int:
			v.SetInt(1)
		case *rate.Config:
			v.Set(reflect.ValueOf(&rate.Config{}))
		case []string:
			v.Set(reflect.ValueOf([]string{"x"}))
		case map[string]string:
			v.Set(reflect.ValueOf(map[string]string{"x": "x"}))
		case *bool:
			v.Set(reflect.ValueOf(new(bool)))
		case *policy.Config:
			v.Set(reflect.ValueOf(&policy.Config{}))
		default:
			t.Fatalf("the test cannot change a %s", v.Type())
		}
		if got := (&Entry{Config: c}).ProviderEntry(); !reflect.DeepEqual(got, zero) {
			t.Errorf("a setting of type %s changes %+v", v.Type(), got)
		}
	}
	if settings < 25 {
		t.Errorf("%d settings", settings)
	}
	c.Type = "kubernetes"
	if got := (&Entry{Config: c}).ProviderEntry(); !got.Kubernetes {
		t.Error("the type kubernetes is not passed on")
	}
}

// eachSetting yields the settings of an entry that are not in KeysConfig.
func eachSetting(v reflect.Value) func(yield func(reflect.Value) bool) {
	return func(yield func(reflect.Value) bool) {
		for field, one := range v.Fields() {
			switch {
			case field.Name == "KeysConfig":
			case strings.HasSuffix(field.Name, "MappingConfig"):
				eachSetting(one)(yield)
			case !yield(one):
				return
			}
		}
	}
}

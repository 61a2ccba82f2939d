package main

import (
	"bufio"
	"encoding/json"
	"log"
	"os"
	"reflect"
	"sort"
	"strings"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// sample is an object as upstream writes it.
type sample struct {
	Group    string          `json:"group"`
	Version  string          `json:"version"`
	Kind     string          `json:"kind"`
	JSON     json.RawMessage `json:"json"`
	Protobuf []byte          `json:"protobuf,omitempty"`
}

// golden writes every kind twice, with all fields set and with none, in JSON and in protobuf.
func golden(scheme *runtime.Scheme) {
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	encoder := json.NewEncoder(out)
	serializer := protobuf.NewSerializer(scheme, scheme)
	var gvks []schema.GroupVersionKind
	for gvk, t := range scheme.AllKnownTypes() {
		// apiextensions/v1beta1 isn't served any more, and its unions can't be filled by reflection
		obsolete := gvk.Group == "apiextensions.k8s.io" && gvk.Version == "v1beta1"
		if !obsolete && gvk.Version != runtime.APIVersionInternal && !strings.HasPrefix(t.PkgPath(), "k8s.io/apimachinery") {
			gvks = append(gvks, gvk)
		}
	}
	sort.Slice(gvks, func(i, j int) bool { return gvks[i].String() < gvks[j].String() })
	for _, gvk := range gvks {
		for _, full := range []bool{true, false} {
			object, err := scheme.New(gvk)
			if err != nil {
				log.Fatal(err)
			}
			if full {
				fill(reflect.ValueOf(object).Elem(), 0, map[reflect.Type]int{})
			}
			object.GetObjectKind().SetGroupVersionKind(gvk)
			written, err := json.Marshal(object)
			if err != nil {
				log.Fatalf("%v: %v", gvk, err)
			}
			s := sample{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind, JSON: written}
			var body strings.Builder
			if err := serializer.Encode(object, &body); err == nil {
				s.Protobuf = []byte(body.String())
			}
			if err := encoder.Encode(s); err != nil {
				log.Fatal(err)
			}
		}
	}
}

// fill sets every field, going round recursive types twice.
func fill(v reflect.Value, n int, seen map[reflect.Type]int) {
	moment := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	switch target := v.Addr().Interface().(type) {
	case *metav1.TypeMeta: // only whole bodies have one in protobuf
		return
	case *metav1.Time:
		*target = metav1.NewTime(moment)
		return
	case *metav1.MicroTime:
		*target = metav1.NewMicroTime(moment.Add(678901 * time.Microsecond))
		return
	case *metav1.Duration:
		target.Duration = 90 * time.Second
		return
	case *metav1.FieldsV1:
		*target = *metav1.NewFieldsV1(`{"f:spec":{"f:x":{}}}`)
		return
	case *resource.Quantity:
		*target = resource.MustParse([]string{"1500m", "2Gi", "7"}[n%3])
		return
	case *intstr.IntOrString:
		*target = []intstr.IntOrString{intstr.FromInt32(80), intstr.FromString("25%")}[n%2]
		return
	case *runtime.RawExtension:
		target.Raw = []byte(`{"a":{"b":[1,null,"c"]}}`)
		return
	case *apiextensionsv1.JSON:
		target.Raw = []byte(`{"a":1}`)
		return
	case *apiextensionsv1.JSONSchemaPropsOrBool:
		if n%2 == 0 || seen[v.Type()] > 1 {
			target.Allows = true
			return
		}
		seen[v.Type()]++
		target.Allows, target.Schema = true, &apiextensionsv1.JSONSchemaProps{Type: "string"}
		return
	case *apiextensionsv1.JSONSchemaPropsOrArray:
		target.Schema = &apiextensionsv1.JSONSchemaProps{Type: "string"}
		return
	case *apiextensionsv1.JSONSchemaPropsOrStringArray:
		target.Property = []string{"p", "q"}
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("text")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(7 - 10*(n%2)))
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		v.SetUint(7)
	case reflect.Float64:
		v.SetFloat(0.5)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n, seen)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			fill(v.Index(i), n+i, seen)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for i, name := range []string{"a", "b"} {
			element := reflect.New(v.Type().Elem()).Elem()
			fill(element, n+i, seen)
			v.SetMapIndex(reflect.ValueOf(name).Convert(v.Type().Key()), element)
		}
	case reflect.Struct:
		if seen[v.Type()] > 1 {
			return
		}
		seen[v.Type()]++
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() && f.Tag.Get("json") != "-" {
				fill(v.Field(i), n+i, seen)
			}
		}
		seen[v.Type()]--
	}
}

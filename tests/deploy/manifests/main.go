// Reads YAML documents from standard input and writes each as one line of JSON. What Kubernetes or its Gateway API
// has a type for is decoded into it strictly: a field that it does not know, or one that stands twice, is an error.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	documents "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	older "sigs.k8s.io/gateway-api/apis/v1alpha3"
	"sigs.k8s.io/yaml"
)

func main() {
	for _, install := range []func(*runtime.Scheme) error{gateway.Install, older.Install} {
		if err := install(scheme.Scheme); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	options := json.SerializerOptions{Yaml: true, Strict: true}
	strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, options)
	reader := documents.NewYAMLReader(bufio.NewReader(os.Stdin))
	failed := false
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		line, err := yaml.YAMLToJSONStrict(document)
		if err != nil {
			fmt.Fprintf(os.Stderr, "%v\n%s\n", err, document)
			os.Exit(1)
		}
		if string(line) == "null" {
			continue
		}
		fmt.Println(string(line))
		if !strings.HasPrefix(string(line), `{"apiVersion":`) {
			continue // values, not a manifest
		}
		// A kind of somebody else's (a ScaledObject, say) has no type here.
		if _, _, err := strict.Decode(document, nil, nil); err != nil && !runtime.IsNotRegisteredError(err) {
			fmt.Fprintln(os.Stderr, err)
			failed = true
		}
	}
	if failed {
		os.Exit(1)
	}
}

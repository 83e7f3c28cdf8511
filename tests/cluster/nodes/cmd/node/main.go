// What a node runs beside containerd, the scheduler and the provisioner of volumes, as one program: it is what it is
// called as (a link named kubelet starts the kubelet).
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	var command *cobra.Command
	switch name := filepath.Base(os.Args[0]); name {
	case "kubelet":
		command = kubelet.NewKubeletCommand(context.Background())
	case "kube-proxy":
		command = proxy.NewProxyCommand()
	case "kube-scheduler":
		command = scheduler.NewSchedulerCommand()
	case "volume-provisioner":
		command = provisionerCommand()
	default:
		fmt.Fprintf(os.Stderr, "call me as kubelet, kube-proxy, kube-scheduler or volume-provisioner, not %q\n", name)
		os.Exit(2)
	}
	os.Exit(cli.Run(command))
}

package main

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

const (
	provisionerName = "replicated-redis.io/directory"
	provisionedBy   = "pv.kubernetes.io/provisioned-by"
	chosenNode      = "volume.kubernetes.io/selected-node"
	wantedFrom      = "volume.kubernetes.io/storage-provisioner"
	sweepEvery      = 500 * time.Millisecond
)

// Every volume is a directory ROOT/NODE/pv-UID. It is made once the scheduler has chosen the node (the StorageClass must
// be WaitForFirstConsumer), is tied to that node, and goes with its claim. Claims are few, so they are polled.
type provisioner struct {
	client kubernetes.Interface
	root   string
}

func provisionerCommand() *cobra.Command {
	var kubeconfig, root string
	command := &cobra.Command{
		Use:  "volume-provisioner",
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
			if err != nil {
				return err
			}
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			p := provisioner{client: client, root: root}
			for ctx := command.Context(); ; time.Sleep(sweepEvery) {
				if err := p.provide(ctx); err != nil {
					klog.ErrorS(err, "volumes could not be made")
				}
				if err := p.grow(ctx); err != nil {
					klog.ErrorS(err, "volumes could not be grown")
				}
				if err := p.reclaim(ctx); err != nil {
					klog.ErrorS(err, "volumes could not be deleted")
				}
			}
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how to reach the API server")
	command.Flags().StringVar(&root, "root", "", "where the volumes' directories are made")
	return command
}

func (p provisioner) provide(ctx context.Context) error {
	claims, err := p.client.CoreV1().PersistentVolumeClaims("").List(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	for _, claim := range claims.Items {
		waits := claim.Spec.VolumeName == "" && claim.Annotations[chosenNode] != ""
		if !waits || claim.Annotations[wantedFrom] != provisionerName {
			continue
		}
		class, err := p.client.StorageV1().StorageClasses().Get(ctx, *claim.Spec.StorageClassName, meta.GetOptions{})
		if err != nil {
			return err
		}
		volume := p.volume(&claim, *class.ReclaimPolicy)
		path := volume.Spec.HostPath.Path
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		// Any user of the pod may write; the kubelet does not apply fsGroup to host paths.
		if err := os.Chmod(path, 0o777); err != nil {
			return err
		}
		_, err = p.client.CoreV1().PersistentVolumes().Create(ctx, volume, meta.CreateOptions{})
		if err != nil && !errors.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}

func (p provisioner) volume(claim *core.PersistentVolumeClaim, policy core.PersistentVolumeReclaimPolicy) *core.PersistentVolume {
	node, name := claim.Annotations[chosenNode], "pv-"+string(claim.UID)
	onNode := core.NodeSelectorRequirement{
		Key: core.LabelHostname, Operator: core.NodeSelectorOpIn, Values: []string{node},
	}
	return &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{Name: name, Annotations: map[string]string{provisionedBy: provisionerName}},
		Spec: core.PersistentVolumeSpec{
			Capacity:                      claim.Spec.Resources.Requests,
			AccessModes:                   claim.Spec.AccessModes,
			VolumeMode:                    claim.Spec.VolumeMode,
			StorageClassName:              *claim.Spec.StorageClassName,
			PersistentVolumeReclaimPolicy: policy,
			ClaimRef: &core.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim",
				Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
			PersistentVolumeSource: core.PersistentVolumeSource{
				HostPath: &core.HostPathVolumeSource{Path: filepath.Join(p.root, node, name)},
			},
			NodeAffinity: &core.VolumeNodeAffinity{Required: &core.NodeSelector{
				NodeSelectorTerms: []core.NodeSelectorTerm{{MatchExpressions: []core.NodeSelectorRequirement{onNode}}},
			}},
		},
	}
}

// A directory is as large as its disk: only what is said of it changes.
func (p provisioner) grow(ctx context.Context) error {
	claims, err := p.client.CoreV1().PersistentVolumeClaims("").List(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	for _, claim := range claims.Items {
		wanted, has := claim.Spec.Resources.Requests[core.ResourceStorage], claim.Status.Capacity[core.ResourceStorage]
		if claim.Status.Phase != core.ClaimBound || wanted.Cmp(has) <= 0 {
			continue
		}
		volume, err := p.client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, meta.GetOptions{})
		if err != nil {
			return err
		}
		if volume.Annotations[provisionedBy] != provisionerName {
			continue
		}
		volume.Spec.Capacity = core.ResourceList{core.ResourceStorage: wanted}
		if _, err := p.client.CoreV1().PersistentVolumes().Update(ctx, volume, meta.UpdateOptions{}); err != nil {
			return err
		}
		claim.Status.Capacity = core.ResourceList{core.ResourceStorage: wanted}
		claim.Status.Conditions = nil
		_, err = p.client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, &claim, meta.UpdateOptions{})
		if err != nil {
			return err
		}
	}
	return nil
}

func (p provisioner) reclaim(ctx context.Context) error {
	volumes, err := p.client.CoreV1().PersistentVolumes().List(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	for _, volume := range volumes.Items {
		released := volume.Status.Phase == core.VolumeReleased &&
			volume.Spec.PersistentVolumeReclaimPolicy == core.PersistentVolumeReclaimDelete
		if !released || volume.Annotations[provisionedBy] != provisionerName {
			continue
		}
		if err := os.RemoveAll(volume.Spec.HostPath.Path); err != nil {
			return err
		}
		err := p.client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, meta.DeleteOptions{})
		if err != nil && !errors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

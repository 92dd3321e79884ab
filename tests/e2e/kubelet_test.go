package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authentication "k8s.io/api/authentication/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// kubelet runs the containers of a namespace as processes on this host, with command, arguments, environment,
// files of volumes and service account of their pods. kwok manages the remaining state of the pods.
type kubelet struct {
	t       *testing.T
	cluster *controlPlane
	// programs by name of the container.
	programs map[string]program
	mutex    sync.Mutex
	run      map[string]*podProcess // by name of the pod
	failed   []string
	stop     chan struct{}
	stopped  sync.WaitGroup
}

// program replaces an image.
type program struct {
	path string
	// additional arguments and environment variables for a kubeconfig.
	arguments, environment func(kubeconfig string) []string
}

// podProcess is a container of a pod. It listens on its own address.
type podProcess struct {
	address  string
	ip       string
	pod      *core.Pod
	process  *process
	reported string    // status of its condition Ready
	ending   bool      // the pod is being deleted
	failing  time.Time // time since which its probe fails; zero if it succeeds
}

func startKubelet(t *testing.T, cluster *controlPlane, programs map[string]program) *kubelet {
	t.Helper()
	k := &kubelet{t: t, cluster: cluster, programs: programs, run: map[string]*podProcess{}, stop: make(chan struct{})}
	k.stopped.Add(1)
	go func() {
		defer k.stopped.Done()
		for {
			select {
			case <-k.stop:
				return
			case <-time.After(200 * time.Millisecond):
				if err := k.syncPods(); err != nil {
					k.fail("%v", err)
				}
			}
		}
	}()
	t.Cleanup(func() {
		close(k.stop)
		k.stopped.Wait()
		for _, running := range k.run {
			running.process.stop()
		}
		for _, failure := range k.failed {
			t.Error(failure)
		}
	})
	return k
}

func (k *kubelet) fail(format string, values ...any) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	if failure := fmt.Sprintf(format, values...); len(k.failed) == 0 || k.failed[len(k.failed)-1] != failure {
		k.failed = append(k.failed, failure)
	}
}

// syncPods starts the processes of new pods, and stops those of deleted ones.
func (k *kubelet) syncPods() error {
	pods, err := k.cluster.client.CoreV1().Pods(namespace).List(background, meta.ListOptions{})
	if err != nil {
		return nil // The API server is unreachable.
	}
	there := map[string]bool{}
	for n := range pods.Items {
		pod := &pods.Items[n]
		if pod.Spec.NodeName == "" {
			continue
		}
		there[pod.Name] = true
		running := k.running(pod.Name)
		if pod.DeletionTimestamp != nil {
			k.end(pod, running)
			continue
		}
		if running != nil {
			if err := running.process.ended(); err == nil {
				continue
			} else if policy := pod.Spec.RestartPolicy; policy == core.RestartPolicyNever ||
				policy == core.RestartPolicyOnFailure && running.process.command.ProcessState.Success() {
				k.setFinalPhase(running)
				continue
			} else {
				k.fail("%v", err)
			}
		}
		if err := k.start(pod); err != nil {
			return err
		}
	}
	for name := range there {
		if running := k.running(name); running != nil && !running.ending && running.process.ended() == nil {
			k.probe(running)
		}
	}
	k.mutex.Lock()
	defer k.mutex.Unlock()
	for name, running := range k.run {
		if !there[name] {
			delete(k.run, name)
			k.stopped.Add(1)
			go func() {
				defer k.stopped.Done()
				running.process.stop()
			}()
		}
	}
	return nil
}

// end stops the process of a pod within its grace period, and then removes the pod.
func (k *kubelet) end(pod *core.Pod, running *podProcess) {
	if running != nil && running.ending {
		return
	}
	if running != nil {
		running.ending = true
	}
	k.stopped.Add(1)
	go func() {
		defer k.stopped.Done()
		if running != nil && !running.process.end(time.Duration(*pod.Spec.TerminationGracePeriodSeconds)*time.Second) {
			k.fail("pod %s did not end in time", pod.Name)
		}
		_ = k.cluster.client.CoreV1().Pods(namespace).Delete(background, pod.Name, *meta.NewDeleteOptions(0))
	}()
}

// setFinalPhase sets the final phase of a pod that is not restarted.
func (k *kubelet) setFinalPhase(running *podProcess) {
	phase := core.PodSucceeded
	if !running.process.command.ProcessState.Success() {
		phase = core.PodFailed
	}
	k.setStatus(running, string(phase), object{"phase": phase})
}

// probe sets the Ready condition of a pod by its readiness probe. It probes more often than the pod declares,
// but a ready pod must fail for the declared time.
func (k *kubelet) probe(running *podProcess) {
	status, container := "True", running.pod.Spec.Containers[0]
	if asked := container.ReadinessProbe; asked != nil {
		number := asked.HTTPGet.Port.IntVal
		for _, port := range container.Ports {
			if port.Name == asked.HTTPGet.Port.StrVal {
				number = port.ContainerPort
			}
		}
		response, err := probe.Get(fmt.Sprintf("http://%s:%d%s", running.address, number, asked.HTTPGet.Path))
		if err == nil {
			_ = response.Body.Close()
		}
		if err == nil && response.StatusCode == http.StatusOK {
			running.failing = time.Time{}
		} else if running.failing.IsZero() {
			running.failing = time.Now()
		}
		patience := time.Duration(asked.FailureThreshold*asked.PeriodSeconds) * time.Second
		if !running.failing.IsZero() && (running.reported != "True" || time.Since(running.failing) > patience) {
			status = "False"
		}
	}
	condition := func(kind string) object {
		return object{"type": kind, "status": status, "lastTransitionTime": meta.Now()}
	}
	k.setStatus(running, status, object{
		"podIP": running.ip, "podIPs": []object{{"ip": running.ip}},
		"conditions": []object{condition("Ready"), condition("ContainersReady")},
	})
}

// setStatus changes the status of a pod that kwok has set to Running, if the status differs.
func (k *kubelet) setStatus(running *podProcess, what string, status object) {
	if what == running.reported {
		return
	}
	patch, err := json.Marshal(object{"status": status})
	if err != nil {
		k.fail("%v", err)
		return
	}
	pods := k.cluster.client.CoreV1().Pods(namespace)
	found, err := pods.Get(background, running.pod.Name, meta.GetOptions{})
	if err != nil || found.Status.Phase != core.PodRunning {
		return // kwok has not set the phase yet.
	}
	if _, err := pods.Patch(background, running.pod.Name, types.StrategicMergePatchType, patch, meta.PatchOptions{}, "status"); err == nil {
		running.reported = what
	}
}

// runningPods returns the running pods by name.
func (k *kubelet) runningPods() map[string]*podProcess {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	return maps.Clone(k.run)
}

func (k *kubelet) running(pod string) *podProcess {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	return k.run[pod]
}

// addresses is the number of addresses of pods.
var addresses atomic.Int32

// address returns an unused loopback address, and the IP that represents it in the cluster, which refuses
// loopback addresses.
func address() (string, string) {
	n, pid := int(addresses.Add(1)), os.Getpid()
	return fmt.Sprintf("127.%d.%d.%d", 1+pid/250%250, 1+pid%250, 1+n%250), fmt.Sprintf("10.1.%d.%d", n/250, 1+n%250)
}

func (k *kubelet) start(pod *core.Pod) error {
	container := pod.Spec.Containers[0]
	what, known := k.programs[container.Name]
	if !known {
		return fmt.Errorf("pod %s: no program for container %s", pod.Name, container.Name)
	}
	dir := filepath.Join(k.cluster.dir, pod.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	files, err := k.mount(pod, container, dir)
	if err != nil {
		return fmt.Errorf("pod %s: %w", pod.Name, err)
	}
	kubeconfig, err := k.account(pod, dir)
	if err != nil {
		return fmt.Errorf("pod %s: %w", pod.Name, err)
	}
	at, ip := address()
	here := func(text string) string {
		for mounted, path := range files {
			text = strings.ReplaceAll(text, mounted+"/", path+"/")
		}
		text = strings.ReplaceAll(text, "[::]:", at+":")
		text = strings.ReplaceAll(text, "0.0.0.0:", at+":")
		return strings.ReplaceAll(text, "in-cluster", kubeconfig)
	}
	var arguments, environment []string
	for _, argument := range container.Args {
		argument, err := k.resolveName(here(argument))
		if err != nil {
			return nil // The Service has no endpoint yet.
		}
		arguments = append(arguments, argument)
	}
	for _, from := range container.EnvFrom {
		if from.ConfigMapRef == nil {
			return fmt.Errorf("pod %s: unsupported source of its environment", pod.Name)
		}
		settings, err := k.cluster.client.CoreV1().ConfigMaps(namespace).Get(background, from.ConfigMapRef.Name, meta.GetOptions{})
		if err != nil {
			return err
		}
		for name, value := range settings.Data {
			environment = append(environment, name+"="+here(value))
		}
	}
	fields := map[string]string{"metadata.name": pod.Name, "metadata.namespace": pod.Namespace, "status.podIP": at}
	for _, variable := range container.Env {
		value := variable.Value
		if from := variable.ValueFrom; from != nil {
			if from.FieldRef == nil || fields[from.FieldRef.FieldPath] == "" {
				return fmt.Errorf("pod %s: unsupported source of variable %s", pod.Name, variable.Name)
			}
			value = fields[from.FieldRef.FieldPath]
		}
		environment = append(environment, variable.Name+"="+here(value))
	}
	arguments = append(arguments, what.arguments(kubeconfig)...)
	environment = append(environment, what.environment(kubeconfig)...)
	// The process has only the environment of the pod.
	process, err := launch(k.cluster.dir, pod.Name, "/usr/bin/env", append(append([]string{"-i"}, environment...),
		append([]string{what.path}, arguments...)...)...)
	if err != nil {
		return err
	}
	k.mutex.Lock()
	defer k.mutex.Unlock()
	k.run[pod.Name] = &podProcess{address: at, ip: ip, pod: pod, process: process}
	return nil
}

// resolveName replaces the name of a Service by its address in URLs without TLS. With TLS, the certificate
// has the name.
func (k *kubelet) resolveName(argument string) (string, error) {
	before, rest, _ := strings.Cut(argument, "http://")
	service, port, found := strings.Cut(rest, "."+namespace+".svc:")
	if !found {
		return argument, nil
	}
	at, err := k.resolve(service, port)
	return before + "http://" + at, err
}

// mount writes the files of the volumes of a pod, and returns the local folder of each mount path.
func (k *kubelet) mount(pod *core.Pod, container core.Container, dir string) (map[string]string, error) {
	paths := map[string]string{}
	for _, mount := range container.VolumeMounts {
		paths[mount.MountPath] = filepath.Join(dir, mount.Name)
	}
	for _, volume := range pod.Spec.Volumes {
		contents := map[string][]byte{}
		switch {
		case volume.Secret != nil:
			secret, err := k.cluster.client.CoreV1().Secrets(namespace).Get(background, volume.Secret.SecretName, meta.GetOptions{})
			if err != nil {
				return nil, err
			}
			contents = secret.Data
		case volume.ConfigMap != nil:
			made, err := k.cluster.client.CoreV1().ConfigMaps(namespace).Get(background, volume.ConfigMap.Name, meta.GetOptions{})
			if err != nil {
				return nil, err
			}
			for name, text := range made.Data {
				contents[name] = []byte(text)
			}
		default:
			return nil, fmt.Errorf("volume %s has an unsupported kind", volume.Name)
		}
		folder := filepath.Join(dir, volume.Name)
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, err
		}
		for name, content := range contents {
			text := string(content)
			for mounted, path := range paths {
				text = strings.ReplaceAll(text, mounted+"/", path+"/")
			}
			if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
				return nil, err
			}
		}
	}
	return paths, nil
}

// account writes a kubeconfig with a token of the pod's service account, issued by the API server.
func (k *kubelet) account(pod *core.Pod, dir string) (string, error) {
	lifetime := int64(7200)
	name := pod.Spec.ServiceAccountName
	if name == "" {
		name = "default"
	}
	request := &authentication.TokenRequest{Spec: authentication.TokenRequestSpec{ExpirationSeconds: &lifetime}}
	issued, err := k.cluster.client.CoreV1().ServiceAccounts(namespace).CreateToken(background, name, request, meta.CreateOptions{})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "kubeconfig")
	content := fmt.Appendf(nil, kubeconfig, filepath.Join(k.cluster.dir, "ca.crt"), k.cluster.url, issued.Status.Token)
	return path, os.WriteFile(path, content, 0o600)
}

// resolve returns the address of an endpoint of a Service, as kube-proxy selects it: a ready pod of its
// EndpointSlices, or else a terminating pod that still serves.
func (k *kubelet) resolve(service, port string) (string, error) {
	found, err := k.cluster.client.CoreV1().Services(namespace).Get(background, service, meta.GetOptions{})
	if err != nil {
		return "", err
	}
	name := ""
	for _, offered := range found.Spec.Ports {
		if fmt.Sprint(offered.Port) == port {
			name = offered.Name
		}
	}
	if name == "" {
		return "", fmt.Errorf("Service %s has no port %s", service, port)
	}
	slices, err := k.cluster.client.DiscoveryV1().EndpointSlices(namespace).List(background,
		meta.ListOptions{LabelSelector: "kubernetes.io/service-name=" + service})
	if err != nil {
		return "", err
	}
	ending := ""
	for _, slice := range slices.Items {
		for _, endpoint := range slice.Endpoints {
			is := endpoint.Conditions
			if is.Serving == nil || !*is.Serving || endpoint.TargetRef == nil {
				continue
			}
			running := k.running(endpoint.TargetRef.Name)
			if running == nil {
				continue
			}
			for _, offered := range slice.Ports {
				if offered.Name == nil || *offered.Name != name || offered.Port == nil {
					continue
				}
				if at := fmt.Sprintf("%s:%d", running.address, *offered.Port); is.Ready != nil && *is.Ready {
					return at, nil
				} else if ending == "" {
					ending = at
				}
			}
		}
	}
	if ending != "" {
		return ending, nil
	}
	content, _ := json.Marshal(slices.Items)
	return "", fmt.Errorf("Service %s has no endpoint for port %s: %s", service, port, content)
}

.PHONY: control-plane
control-plane: ## Provide etcd, kube-apiserver, kube-controller-manager, kubectl and helm (built once per machine)
	@hack/control-plane.sh

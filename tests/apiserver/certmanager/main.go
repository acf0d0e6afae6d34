// cert-manager, as far as manifests/components/cert-manager needs it: its own controllers for Certificates and for
// issuers of the kinds SelfSigned and CA, and its cainjector, in one process. Its own main packages are in modules that
// it does not publish. Ends on SIGTERM.
package main

import (
	"context"
	"flag"
	"log"
	"sync"
	"time"

	admission "k8s.io/api/admissionregistration/v1"
	core "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/cert-manager/cert-manager/pkg/api"
	"github.com/cert-manager/cert-manager/pkg/controller"
	"github.com/cert-manager/cert-manager/pkg/controller/cainjector"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/approver"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/ca"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/selfsigned"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/issuing"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/keymanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/readiness"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/requestmanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/revisionmanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/trigger"
	_ "github.com/cert-manager/cert-manager/pkg/controller/issuers"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/ca"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/selfsigned"
	"github.com/cert-manager/cert-manager/pkg/util/feature"
)

func main() {
	flag.Parse() // -kubeconfig is a flag of controller-runtime
	// As before release 1.19, the harder case for whoever serves: a CA bundle is replaced, and what was trusted is gone.
	check(feature.DefaultMutableFeatureGate.Set("CAInjectorMerging=false"))
	ctx := ctrl.SetupSignalHandler()
	var running sync.WaitGroup
	running.Go(func() { control(ctx, flag.Lookup("kubeconfig").Value.String()) })
	running.Go(func() { inject(ctx) })
	running.Wait()
}

func control(ctx context.Context, kubeconfig string) {
	factory, err := controller.NewContextFactory(ctx, controller.ContextOptions{
		Kubeconfig:         kubeconfig,
		KubernetesAPIQPS:   100,
		KubernetesAPIBurst: 100,
		CertificateOptions: controller.CertificateOptions{CertificateRequestMinimumBackoffDuration: time.Hour},
	})
	check(err)
	var controllers []controller.Interface
	for _, construct := range controller.Known() {
		one, err := construct(factory)
		check(err)
		controllers = append(controllers, one)
	}
	// The informers are shared by all controllers, so they start when the last of them has said what it watches.
	shared, err := factory.Build()
	check(err)
	shared.SharedInformerFactory.Start(ctx.Done())
	shared.KubeSharedInformerFactory.Start(ctx.Done())
	var running sync.WaitGroup
	for _, one := range controllers {
		running.Go(func() { check(one.Run(1, ctx)) })
	}
	running.Wait()
}

func inject(ctx context.Context) {
	check(core.AddToScheme(api.Scheme))
	check(admission.AddToScheme(api.Scheme))
	config, err := ctrl.GetConfig()
	check(err)
	manager, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:  api.Scheme,
		Metrics: server.Options{BindAddress: "0"},
		Client:  client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&core.Secret{}}}},
	})
	check(err)
	check(cainjector.RegisterAllInjectors(ctx, manager, cainjector.SetupOptions{
		EnableCertificatesDataSource: true,
		EnabledReconcilersFor: map[string]bool{
			cainjector.MutatingWebhookConfigurationName:   true,
			cainjector.ValidatingWebhookConfigurationName: true,
		},
	}))
	check(manager.Start(ctx))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

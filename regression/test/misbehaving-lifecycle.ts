/** Stands in for `@signalbox/lifecycle/lifecycle` in a service that service-with-stop-faults.ts starts. */
import { type Lifecycle, runMain as realRunMain } from '@signalbox/lifecycle/lifecycle';

export * from '@signalbox/lifecycle/lifecycle';

const never = () => new Promise<void>(() => undefined);

const behaviours = {
  /** A step that fails and one that never ends, beside the service's own. */
  'faulty steps'(lifecycle) {
    lifecycle.onStop({ name: 'fails', phase: 'intake', run: () => Promise.reject(new Error('no')) });
    lifecycle.onStop({ name: 'hangs', phase: 'intake', timeoutMs: 600_000, run: never });
  },
  /** A main loop that ends by itself at SIGUSR2. */
  'ending loop'(lifecycle) {
    lifecycle.background(
      'test',
      () => new Promise<void>((resolve) => process.once('SIGUSR2', () => resolve())),
    );
  },
} satisfies Record<string, (lifecycle: Lifecycle) => void>;

export type StopFault = keyof typeof behaviours;

export function runMain(main: (lifecycle: Lifecycle) => Promise<void>): Promise<void> {
  return realRunMain(async (lifecycle) => {
    const chosen = Object.entries(behaviours).find(([name]) => name === process.argv[3]);
    if (chosen === undefined) throw new Error(`no behaviour ${process.argv[3]}`);
    chosen[1](lifecycle);
    await main(lifecycle);
  });
}

import { type LaunchedService, launchService } from './service.ts';
import { waitFor } from './wait.ts';

/** A stand-in of dev/simulators as a process of its own. */
export interface StandIn {
  readonly url: string;
  readonly launched: LaunchedService;
  /** Replaces the fault orders in force. */
  faults(...orders: readonly object[]): Promise<void>;
  /** What a route of it answers; the caller names its form. */
  read<T>(path: string): Promise<T>;
  close(): Promise<void>;
}

/** Starts a stand-in by the name of its folder, on a free port. `env` is what it needs besides. */
export async function startStandIn(
  name: 'model' | 'memory' | 'webhooks',
  env: Readonly<Record<string, string>> = {},
): Promise<StandIn> {
  const entry = new URL(`../../../dev/simulators/${name}/main.ts`, import.meta.url);
  const launched = launchService(`${name}-stand-in`, { PORT: '0', HOST: '127.0.0.1', ...env }, { entry });
  const url = await waitFor(
    () => launched.noise.map((line) => /^stand-in .* on (http:\S+)$/.exec(line)?.[1]).find(Boolean),
    (found): found is string => found !== undefined,
    { timeoutMs: 20_000, label: `the stand-in ${name}` },
  );
  return {
    url,
    launched,
    async faults(...orders) {
      const answer = await fetch(new URL('/admin/faults', url), {
        method: 'PUT',
        body: JSON.stringify(orders),
      });
      if (!answer.ok) throw new Error(`the stand-in ${name} refused the faults: ${await answer.text()}`);
    },
    async read<T>(path: string) {
      const body: T = JSON.parse(await (await fetch(new URL(path, url))).text());
      return body;
    },
    close: () => launched[Symbol.asyncDispose](),
  };
}

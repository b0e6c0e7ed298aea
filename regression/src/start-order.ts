import { waitFor } from '@signalbox/testkit/wait';
import type { PartName } from './parts.ts';
import type { Replica } from './replica.ts';

/** What a service may take from the moment when the last thing it needs is there. */
export const readyBoundMs = 15_000;

export interface Readiness {
  readonly status: number;
  readonly body: { readonly status: string; readonly reason?: string };
}

export async function readinessOf({ url }: Replica): Promise<Readiness> {
  const response = await fetch(`${url}/ready`, { signal: AbortSignal.timeout(2_000) });
  const body: Readiness['body'] = JSON.parse(await response.text());
  return { status: response.status, body };
}

export async function isAlive({ url }: Replica): Promise<boolean> {
  const response = await fetch(`${url}/live`, { signal: AbortSignal.timeout(2_000) });
  await response.arrayBuffer();
  return response.status === 200;
}

/** What /ready must say while these parts are away; undefined: ready. Gateways need their database alone. */
export function reasonWithout(away: ReadonlySet<PartName>, { service }: Replica): string | undefined {
  if (away.has('postgres')) return 'database';
  return away.has('kafka') && !service.endsWith('gateway') ? 'kafka' : undefined;
}

/** Waits until each replica says what it must with these parts away, and sees that all of them live. */
export async function expectWaiting(
  replicas: readonly Replica[],
  away: ReadonlySet<PartName>,
): Promise<void> {
  for (const replica of replicas) {
    const reason = reasonWithout(away, replica);
    await waitFor(
      () => readinessOf(replica),
      ({ status, body }) =>
        reason === undefined
          ? status === 200
          : status === 503 && body.status === 'unready' && body.reason === reason,
      { timeoutMs: 30_000, label: `${replica.name} without ${[...away]}: ${reason ?? 'ready'}` },
    );
    if (!(await isAlive(replica))) throw new Error(`${replica.name} is not alive`);
  }
}

/** Waits until each replica is ready and every check of its is ok, and answers how long each took. */
export async function untilWell(
  replicas: readonly Replica[],
  timeoutMs = readyBoundMs,
): Promise<Record<string, number>> {
  const since = performance.now();
  const took = await Promise.all(
    replicas.map(async (replica) => {
      await replica.ready(timeoutMs);
      await waitFor(
        async () => {
          const response = await fetch(`${replica.url}/health`, { signal: AbortSignal.timeout(2_000) });
          const { checks }: { checks: Record<string, { status: string }> } = JSON.parse(
            await response.text(),
          );
          return Object.entries(checks).filter(([, { status }]) => status !== 'ok');
        },
        (bad) => bad.length === 0,
        { timeoutMs: since + timeoutMs - performance.now(), intervalMs: 50, label: `${replica.name} well` },
      );
      return [replica.name, Math.round(performance.now() - since)] as const;
    }),
  );
  return Object.fromEntries(took);
}

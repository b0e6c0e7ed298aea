import { launchService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';

/** A call as the receiver saw it. */
export interface ReceivedCall {
  readonly webhook_id: string;
  readonly timestamp: string;
  readonly verdict: string;
  readonly repeat: boolean;
  readonly status: number;
  readonly traceparent?: string;
  readonly body: {
    readonly type: string;
    readonly data: { readonly task_id: string; readonly status: string };
  };
  readonly at: string;
}

/** The stand-in receiver as a process of its own. */
export async function startReceiver(signingSecret: string) {
  const entry = new URL('../../../dev/simulators/webhooks/main.ts', import.meta.url);
  const process = launchService(
    'webhook-receiver',
    { PORT: '0', HOST: '127.0.0.1', WEBHOOK_SIGNING_SECRET: signingSecret },
    { entry },
  );
  const url = await waitFor(
    () => /http:\S+/.exec(process.noise.join('\n'))?.[0] ?? '',
    (found) => found !== '',
    { timeoutMs: 20_000, label: 'the receiver listens' },
  );
  const calls = async (taskId: string): Promise<ReceivedCall[]> => {
    const all: ReceivedCall[] = JSON.parse(await (await fetch(`${url}/admin/calls`)).text());
    return all.filter(({ body }) => body.data.task_id === taskId);
  };
  return {
    url,
    hook: `${url}/hooks/acme`,
    calls,
    async fail(...orders: readonly object[]): Promise<void> {
      await fetch(`${url}/admin/faults`, { method: 'PUT', body: JSON.stringify(orders) });
    },
    /** Waits for so many calls of a task. */
    received: (taskId: string, count = 1, timeoutMs = 15_000): Promise<ReceivedCall[]> =>
      waitFor(
        () => calls(taskId),
        (found) => found.length >= count,
        { timeoutMs, label: `${count} calls of ${taskId}` },
      ),
    stop: () => process[Symbol.asyncDispose](),
  };
}

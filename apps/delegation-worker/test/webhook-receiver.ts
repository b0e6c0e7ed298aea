import { startStandIn } from '@signalbox/testkit/stand-in';
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
  const { url, faults, read, close } = await startStandIn('webhooks', {
    WEBHOOK_SIGNING_SECRET: signingSecret,
  });
  const calls = async (taskId: string): Promise<ReceivedCall[]> => {
    const all = await read<ReceivedCall[]>('/admin/calls');
    return all.filter(({ body }) => body.data.task_id === taskId);
  };
  return {
    url,
    hook: `${url}/hooks/acme`,
    calls,
    fail: faults,
    /** Waits for so many calls of a task. */
    received: (taskId: string, count = 1, timeoutMs = 15_000): Promise<ReceivedCall[]> =>
      waitFor(
        () => calls(taskId),
        (found) => found.length >= count,
        { timeoutMs, label: `${count} calls of ${taskId}` },
      ),
    stop: close,
  };
}

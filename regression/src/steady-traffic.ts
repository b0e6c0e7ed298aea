import { isTerminalEvent } from '@signalbox/contracts/conversation-outbound';
import { waitFor } from '@signalbox/testkit/wait';
import type { Ledger, Traffic } from './ledger.ts';

export interface SteadyTraffic {
  /** Waits until each session has seen the end of a turn that was accepted after this call. Resolves with the time it took. */
  answeredAgain(timeoutMs?: number): Promise<number>;
  /** Posts nothing more; resolves when each message under way has its 202. */
  stop(): Promise<void>;
}

/**
 * Sessions of both tenants that post all kinds of messages, each one every `pauseMs`, until they are told to stop.
 * Resolves when each has had a first answer, so that what breaks then breaks in the middle of work.
 */
export async function startSteadyTraffic(
  ledger: Ledger,
  traffic: Omit<Traffic, 'messages' | 'until'>,
): Promise<SteadyTraffic> {
  const stopping = new AbortController();
  const others = ledger.talks.length;
  const posted = ledger.traffic({ ...traffic, messages: Infinity, until: stopping.signal });
  const own = ledger.talks.slice(others);
  // Told by stop(); a rejection before that is no news to the process.
  posted.catch(() => undefined);

  const answeredAgain = async (timeoutMs = 60_000): Promise<number> => {
    const since = performance.now();
    await waitFor(
      () =>
        own
          .filter(({ accepted, follower }) => {
            const later = accepted.filter(({ acceptedAtMs }) => acceptedAtMs > since);
            const ends =
              follower?.events.filter(({ type, atMs }) => atMs > since && isTerminalEvent(type)) ?? [];
            return !later.some(({ turnId }) => ends.some(({ data }) => data.turn_id === turnId));
          })
          .map(({ sessionId }) => sessionId),
      (without) => without.length === 0,
      { timeoutMs, intervalMs: 50, label: 'an answer in every session' },
    );
    return performance.now() - since;
  };
  try {
    await answeredAgain();
  } catch (error) {
    stopping.abort();
    throw error;
  }
  return {
    answeredAgain,
    async stop() {
      stopping.abort();
      await posted;
    },
  };
}

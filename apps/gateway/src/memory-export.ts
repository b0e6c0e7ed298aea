import type { MemoryPage } from '@signalbox/contracts/memory-recall';
import { asFault, fault } from '@signalbox/faults/fault';
import { openLineStream } from '@signalbox/http/line-stream';
import type { FastifyReply } from '@signalbox/http/types';
import { pause } from '@signalbox/lifecycle/pause';
import type { Logger } from '@signalbox/telemetry/telemetry';

/** What a page of memories is asked with, beside its place and length. */
export interface MemoryPageQuestion {
  readonly namespaces?: readonly string[];
  readonly session_id?: string;
}

export interface MemoryExport {
  /** The memories behind an id, at most `limit`. */
  ask(after: string | undefined, limit: number, signal: AbortSignal): Promise<MemoryPage>;
  /** A reader that takes nothing in this time is cut. */
  readonly maxStallMs: number;
  readonly log: Logger;
}

const pageMemories = 200;
/** Of a page that is not the first: a rebalance of the answers costs one deadline, and need not cost the export. */
const triesOfPage = 3;
const pauseMs = 250;

/**
 * Sends all memories as lines, a page in memory at a time: the next one is asked for when this one has left for the
 * network. Throws what the first page fails with, while there can still be a status for it. Later the connection is cut.
 */
export async function exportMemories(reply: FastifyReply, options: MemoryExport): Promise<void> {
  const { ask, maxStallMs, log } = options;
  let page = await ask(undefined, pageMemories, new AbortController().signal);
  const lines = openLineStream(reply, { maxStallMs });
  let count = 0;
  try {
    for (;;) {
      const { memories, next_after: after } = page;
      count += memories.length;
      await lines.send(memories);
      if (lines.closed.aborted) return;
      if (after === undefined) break;
      page = await nextPage(after, lines.closed);
    }
    lines.end({ end: true, count });
  } catch (error) {
    if (lines.closed.aborted) return;
    log.warning('memory.export_cut', { error, memories: count });
    lines.cut();
  }

  async function nextPage(after: string, signal: AbortSignal): Promise<MemoryPage> {
    for (let tries = 1; ; tries += 1) {
      try {
        const next = await ask(after, pageMemories, signal);
        if (next.next_after !== undefined && next.next_after <= after)
          throw fault('INTERNAL_ERROR', 'the pages of memories do not go on');
        return next;
      } catch (error) {
        if (signal.aborted || !asFault(error).retryable || tries === triesOfPage) throw error;
        await pause(pauseMs * tries, signal);
      }
    }
  }
}

import { isId } from '@signalbox/contracts/ids';
import { fault } from '@signalbox/faults/fault';
import { pause } from '@signalbox/lifecycle/pause';
import { traceTree, type ZipkinSpan } from './trace-tree.ts';
import { findTraces } from './zipkin.ts';

export interface ShowTraceOptions {
  readonly zipkinUrl: string;
  readonly eventId: string;
  /** How long to wait for the trace to be there and to stop growing; 0 looks once. */
  readonly waitMs: number;
  readonly print: (line: string) => void;
}

const eventTag = 'signalbox.event_id';
const pollMs = 500;
/** Services send spans once a second: a trace that has not grown for longer is whole. */
const settledMs = 2500;

/**
 * Prints the tree of every trace that a message left. Throws VALIDATION_ERROR for what is no event id, NOT_FOUND when no
 * span carries it.
 */
export async function showTrace({ zipkinUrl, eventId, waitMs, print }: ShowTraceOptions): Promise<void> {
  if (!isId(eventId)) {
    throw fault(
      'VALIDATION_ERROR',
      `"${eventId}" is no event id: POST /v1/session/message answers one as event_id`,
    );
  }
  const traces = await settledTraces(zipkinUrl, eventId, waitMs);
  if (traces.length === 0) {
    const again = waitMs === 0 ? ' Spans arrive about two seconds late: try --wait.' : '';
    throw fault('NOT_FOUND', `no trace holds event ${eventId}.${again}`);
  }
  for (const spans of traces) for (const line of traceTree(spans)) print(line);
}

async function settledTraces(zipkinUrl: string, eventId: string, waitMs: number): Promise<ZipkinSpan[][]> {
  const endsAt = performance.now() + waitMs;
  let size = 0;
  let grewAt = performance.now();
  for (;;) {
    const traces = await findTraces(zipkinUrl, eventTag, eventId);
    const now = performance.now();
    const sizeNow = traces.reduce((sum, spans) => sum + spans.length, 0);
    if (sizeNow !== size) {
      size = sizeNow;
      grewAt = now;
    }
    if (now >= endsAt || (size > 0 && now - grewAt >= settledMs)) return traces;
    await pause(pollMs);
  }
}

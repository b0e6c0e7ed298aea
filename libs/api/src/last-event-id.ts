import { fault } from '@signalbox/faults/fault';
import type { FastifyRequest } from '@signalbox/http/types';
import { parseStreamId, type StreamPosition } from './stream-id.ts';

/**
 * Where a reader wants to go on: the header Last-Event-ID, else what the address says. The header wins: a client library
 * sets it when it connects again with the address it began with.
 */
export function lastEventIdOf(request: FastifyRequest, fromQuery: string | undefined): string | undefined {
  const header = request.headers['last-event-id'];
  const text = Array.isArray(header) ? header.join(',') : header;
  // The HTML standard sends none for an empty id.
  return text === undefined || text === '' ? fromQuery : text;
}

/** The place that an id given by a client stands for. MALFORMED_REQUEST when no stream of this epoch can have sent it. */
export function resumePosition(lastEventId: string, epoch: number): StreamPosition {
  const after = parseStreamId(lastEventId);
  if (after === undefined || after.epoch > epoch) {
    throw fault('MALFORMED_REQUEST', 'Last-Event-ID is no id of this stream', {
      errors: [{ path: 'headers/last-event-id', message: 'must be an id that this stream has sent' }],
    });
  }
  return after;
}

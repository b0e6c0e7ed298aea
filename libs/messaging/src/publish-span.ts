import { headerNames, type RecordHeaders } from '@signalbox/contracts/headers';
import { attribute, failSpan, startSpan, traceparentOf } from '@signalbox/telemetry/trace';
import { setTraceparent } from './outgoing.ts';

export interface PublishSpan {
  /** The headers with this span's context as the traceparent. */
  readonly headers: RecordHeaders;
  end(error?: unknown): void;
}

/**
 * The span of one outbox row on its way to the broker, a child of the context that its transaction stored. The process
 * that publishes may be another one, much later: whatever is active then has nothing to do with the message.
 */
export function startPublishSpan(path: string, topic: string, stored: RecordHeaders): PublishSpan {
  const span = startSpan(`publish ${topic}`, {
    kind: 'producer',
    parent: stored[headerNames.traceparent],
    attributes: {
      'messaging.system': 'kafka',
      'messaging.destination.name': topic,
      'signalbox.publish_path': path,
      [attribute.eventId]: stored[headerNames.eventId],
      [attribute.tenantId]: stored[headerNames.tenantId],
      [attribute.sessionId]: stored[headerNames.sessionId],
    },
  });
  const headers = { ...stored };
  setTraceparent(headers, traceparentOf(span));
  return {
    headers,
    end(error) {
      if (error !== undefined) failSpan(span, error);
      span.end();
    },
  };
}

import { headerNames, type RecordHeaders } from '@signalbox/contracts/headers';
import { type TopicName, topics } from '@signalbox/contracts/topics';
import { fault } from '@signalbox/faults/fault';

/**
 * The one place that values of `content` topics pass on their way in and out (delivery rule 28). Identity in this release:
 * the header `key_id`, which will name the data key of the session, is never written, and a record that has one was
 * encrypted by a later release and must not be taken for text.
 */
export function encodeContent(_topic: TopicName, value: Buffer | null): Buffer | null {
  return value;
}

/** Throws POISON_RECORD for a record that this release cannot decrypt. */
export function decodeContent(topic: TopicName, headers: RecordHeaders, value: Buffer | null): Buffer | null {
  if (topics[topic].content && headers[headerNames.keyId] !== undefined) {
    throw fault('POISON_RECORD', 'the value is encrypted under a key_id that this release cannot read');
  }
  return value;
}

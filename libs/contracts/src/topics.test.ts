import { expect, test } from 'vitest';
import { topicEvents } from './topic-events.ts';
import { deadLetterTopic, isSourceTopic, isTopicName, sourceTopics, topicList, topics } from './topics.ts';

test('every topic has its dead letters with as many partitions and room for the record and its reason', () => {
  for (const name of sourceTopics) {
    const dlq = topics[deadLetterTopic(name)];
    expect(dlq.partitions).toBe(topics[name].partitions);
    expect(dlq.maxMessageBytes).toBe(4 * topics[name].maxMessageBytes);
    expect(dlq.content).toBe(topics[name].content);
  }
  expect(topicList).toHaveLength(2 * sourceTopics.length);
});

test('a topic is either compacted or has a retention, and a schema of its name', () => {
  for (const topic of topicList) {
    expect(topic.compacted).toBe(topic.retentionMs === undefined);
    expect(topics[topic.name]).toBe(topic);
  }
  for (const name of sourceTopics) {
    expect(topicEvents[name].schema).toBe(`${name}.v1`);
  }
});

test('names from outside are looked up among own names only', () => {
  expect(isTopicName('tool.requests.dlq')).toBe(true);
  expect(isSourceTopic('tool.requests.dlq')).toBe(false);
  expect(['constructor', '__proto__', 'toString', '', undefined].some(isTopicName)).toBe(false);
});

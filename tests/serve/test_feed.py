from serve.feed import Feed
from serve.messages import RecommendRequest


def test_a_known_user_gets_a_ranked_feed_of_unseen_items(feed: Feed) -> None:
    answer = feed.recommend(RecommendRequest(user_id=3, debug=True))
    print(answer)
    assert len(answer.items) == 10
    assert answer.fallback is False
